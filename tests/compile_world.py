"""A small world in which compiling pays: texts in a secret language, and LMs that learn it.

Each text names its label only by a code word, so retrieval by the text's own words is at a loss.
The teacher knows the language. The student knows it once its prompt shows how: a demonstration
whose answer is right. Run as a script, it serves both LMs until it is killed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

from scripted_server import Call, Reply

from irr.labels import LabelSet
from irr.types import Document, Label

NAMES = [
    f"{verb} {thing}"
    for verb in ("bake", "repair", "sell", "design", "teach")
    for thing in ("bread", "bicycles", "houses", "music", "ships", "gardens")
]
LABELS = LabelSet([Label(f"L{number}", name) for number, name in enumerate(NAMES)])
CODES = {f"zq{number:02d}": name for number, name in enumerate(NAMES)}


def documents(count: int, seed: int = 0, start: int = 0) -> list[Document]:
    """Texts with one to three code words each."""
    draw = random.Random(seed)
    found = []
    for number in range(start, start + count):
        codes = draw.sample(sorted(CODES), draw.randint(1, 3))
        text = f"Wanted ({number}): " + ", ".join(codes) + "."
        found.append(Document(f"d{number}", text, tuple(CODES[code] for code in codes)))
    return found


def gold_of(text: str) -> list[str]:
    return [CODES[code] for code in re.findall(r"zq\d\d", text)]


def has_learnt(call: Call) -> bool:
    """Whether a demonstration in the prompt answers as a right one does."""
    key = "guesses" if call.stage == "infer" else "ranking"
    for user, assistant in zip(call.messages[1::2], call.messages[2::2], strict=False):
        text, _, listed = user["content"].partition("\n\nCandidates:\n")
        answer = json.loads(assistant["content"])[key]
        shown = re.findall(r"^[1-9]\d*\. (.*)$", listed, re.MULTILINE)
        right = gold_of(text)
        said = answer if key == "guesses" else [shown[number - 1] for number in answer]
        if right and said[: len(right)] == right:
            return True
    return False


def knowing(call: Call) -> str:
    """The right answer."""
    right = gold_of(call.text)
    if call.stage == "infer":
        return json.dumps({"guesses": right})
    numbers = [call.candidates.index(name) + 1 for name in right if name in call.candidates]
    return json.dumps({"ranking": numbers})


def clueless(call: Call) -> str:
    """A well-formed wrong answer, the same each time."""
    if call.stage == "infer":
        return json.dumps({"guesses": ["speak in riddles"]})
    wrong = [n for n, name in enumerate(call.candidates, 1) if name not in gold_of(call.text)]
    return json.dumps({"ranking": wrong[:10]})


def proposing(call: Call) -> str:
    """What an optimizer's own questions (instructions, summaries) are answered with."""
    text = "A code word zqNN stands for a label. HINT"
    _, _, listed = call.messages[0]["content"].partition("Your output fields are:")
    fields = re.findall(r"^\d+\. `(\w+)`", listed.partition("All interactions")[0], re.MULTILINE)
    if "JSON object" in call.messages[-1]["content"]:
        return json.dumps(dict.fromkeys(fields, text))
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name in fields)


def world(
    teacher: Callable[[Call], str] = knowing, *, hint: bool = False
) -> Callable[[Call], Reply | str]:
    """The script of both LMs. With `hint`, instructions that hold HINT teach the student too."""

    def script(call: Call) -> Reply | str:
        if call.stage == "other":
            return proposing(call)
        if call.body["model"] == "teacher":
            return teacher(call)
        told = hint and "HINT" in call.messages[0]["content"]
        return knowing(call) if told or has_learnt(call) else clueless(call)

    return script
