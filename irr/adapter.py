"""ListAdapter: how DSPy writes our prompts and reads our replies.

In: a signature with one output field that is a list. Out: chat messages whose prefix (system
message, demonstrations) is the same for every document, so that a server's prefix cache works;
and the parsed list. DSPy's own adapters are not used because their markers cost tokens in every
call, because a malformed reply makes them ask again in another format without telling us, and
because they repair broken JSON in silence.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any, cast

import dspy
from dspy.utils.exceptions import AdapterParseError

from irr.errors import ReplyError
from irr.prompts import Prompts, StagePrompt
from irr.replies import MAX_GUESSES, parse_guesses, parse_picks

__all__ = [
    "ListAdapter",
    "infer_signature",
    "rank_signature",
    "read_list",
    "response_format",
]


def infer_signature(prompts: Prompts) -> type[dspy.Signature]:
    """text: str → guesses: list[str]."""
    return _signature("Infer", prompts.infer, {"text": str}, {"guesses": list[str]})


def rank_signature(prompts: Prompts) -> type[dspy.Signature]:
    """text: str, candidates: list[str] → ranking: list[int]; numbers count from 1, 0 is none."""
    inputs = {"text": str, "candidates": list[str]}
    return _signature("Rank", prompts.rank, inputs, {"ranking": list[int]})


def _signature(
    name: str, prompt: StagePrompt, inputs: dict[str, Any], outputs: dict[str, Any]
) -> type[dspy.Signature]:
    fields = {key: (kind, dspy.InputField(desc=prompt.fields[key])) for key, kind in inputs.items()}
    fields |= {
        key: (kind, dspy.OutputField(desc=prompt.fields[key])) for key, kind in outputs.items()
    }
    return cast(
        "type[dspy.Signature]",
        dspy.make_signature(fields, prompt.instructions, signature_name=name),
    )


class ListAdapter(dspy.Adapter):
    """Prompts as plain text with a heading for each field, replies as a JSON object with a list.

    With `schema=True` (the default) each call carries a JSON schema that allows nothing else: for
    Rank only the numbers of the candidates shown, and 0. Servers that cannot constrain their output
    are dealt with by the engine, which sends the same call without it.

    Behind the candidates stands "0. none of these". An LM that is held to a list of numbers, by a
    schema or by demonstrations that all pick something, hardly ever leaves the list empty.
    """

    def __init__(self, *, schema: bool = True) -> None:
        super().__init__()
        self.schema = schema

    def _call_preprocess(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: Any, inputs: dict[str, Any]
    ) -> Any:
        if self.schema:
            lm_kwargs.setdefault("response_format", response_format(signature, inputs))
        return super()._call_preprocess(lm, lm_kwargs, signature, inputs)

    def format(
        self, signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The chat messages. DSPy's own version would look inside the texts for its markers of
        pictures and files: a document could then put such parts into the prompt.
        """
        return [
            {"role": "system", "content": self.format_system_message(signature)},
            *self.format_demos(signature, demos),
            {"role": "user", "content": self.format_user_message_content(signature, inputs)},
        ]

    def format_system_message(self, signature: Any) -> str:
        return _shape(signature, signature.__doc__).system

    def format_user_message_content(
        self,
        signature: Any,
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,  # noqa: ARG002 - DSPy passes it by name
    ) -> str:
        parts = [prefix] if prefix else []
        for name in _shape(signature, signature.__doc__).inputs:
            if inputs.get(name) is not None:
                parts.append(f"{name.capitalize()}:\n{_render(inputs[name])}")
        if suffix:
            parts.append(suffix)
        return "\n\n".join(parts)

    def format_assistant_message_content(
        self, signature: Any, outputs: dict[str, Any], missing_field_message: str | None = None
    ) -> str:
        shape = _shape(signature, signature.__doc__)
        value = outputs.get(shape.output)
        if value is None:
            return missing_field_message or ""
        answer = list(value) or ([] if shape.holds_texts else [0])
        return json.dumps({shape.output: answer}, ensure_ascii=False)

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        name = _shape(signature, signature.__doc__).output
        try:
            return {name: read_list(signature, completion)}
        except ReplyError as error:
            raise AdapterParseError(
                adapter_name="ListAdapter",
                signature=signature,
                lm_response=completion,
                message=str(error),
            ) from error


def read_list(signature: Any, completion: str) -> list[Any]:
    """The list in a reply: guesses (str), or picks (int, or str where it wrote words).

    Raises:
        ReplyError: there is none that can be read.
    """
    if _shape(signature, signature.__doc__).holds_texts:
        return list(parse_guesses(completion))
    return list(parse_picks(completion))


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is the same in every prompt of a signature."""

    inputs: tuple[str, ...]
    output: str
    holds_texts: bool
    system: str


# The instructions are part of the key because a signature's may be set.
@functools.lru_cache(maxsize=64)
def _shape(signature: Any, instructions: str) -> _Shape:  # noqa: ARG001
    """DSPy works out the fields of a signature anew each time they are asked for."""
    ((name, field),) = signature.output_fields.items()
    holds_texts = field.annotation == list[str]
    example = '["…", "…"]' if holds_texts else "[4, 17]"
    system = (
        f"{signature.instructions.strip()}\n\n"
        f'Answer with JSON and nothing else: {{"{name}": {example}}}\n'
        f"{name}: {field.json_schema_extra['desc']}"
    )
    return _Shape(tuple(signature.input_fields), name, holds_texts, system)


_NONE_LINE = "0. none of these"


def _render(value: object) -> str:
    if isinstance(value, list | tuple):
        lines = [f"{number}. {entry}" for number, entry in enumerate(value, start=1)]
        return "\n".join([*lines, _NONE_LINE])
    return str(value).strip()


def response_format(signature: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The schema of a reply. Repeats are dropped later: vLLM refuses `uniqueItems`."""
    shape = _shape(signature, signature.__doc__)
    if shape.holds_texts:
        return _list_schema(shape.output, MAX_GUESSES, numbers=False)
    return _list_schema(shape.output, max(1, len(inputs.get("candidates") or ())), numbers=True)


@functools.lru_cache(maxsize=1024)
def _list_schema(name: str, most: int, *, numbers: bool) -> dict[str, Any]:
    """One object for all calls of a kind: it is only read."""
    items: dict[str, Any] = {"type": "string"}
    if numbers:
        items = {"type": "integer", "enum": list(range(most + 1))}
    schema = {
        "type": "object",
        "properties": {name: {"type": "array", "items": items, "maxItems": most}},
        "required": [name],
        "additionalProperties": False,
    }
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": schema, "strict": True},
    }
