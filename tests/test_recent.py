import random
import threading
from collections import OrderedDict

import numpy as np

from irr.recent import RecentVectors
from irr.vectors import Floats


def test_the_most_recently_used_are_remembered() -> None:
    """As an ordered dictionary of arrays would, also when fewer are wanted later."""
    draw = random.Random(0)
    recent, model = RecentVectors(), OrderedDict[str, Floats]()
    for step in range(1500):
        most = 20 if step < 1000 else 5
        texts = dict.fromkeys(str(draw.randrange(60)) for _ in range(draw.randint(1, 9)))
        found = recent.find(texts)
        assert {text: row.tolist() for text, row in found.items()} == {
            text: model[text].tolist() for text in texts if text in model
        }
        for text in found:
            model.move_to_end(text)
        new = {text: np.full(3, draw.random(), np.float32) for text in texts if text not in found}
        recent.add(new, most)
        model |= new
        while len(model) > most:
            model.popitem(last=False)
        assert len(recent) == len(model)


def test_a_vector_that_was_found_stays_when_its_place_is_given_away() -> None:
    recent = RecentVectors()
    recent.add({"old": np.ones(2, np.float32)}, 1)
    found = recent.find(["old"])
    recent.add({"new": np.zeros(2, np.float32)}, 1)
    assert found["old"].tolist() == [1, 1]
    assert recent.find(["old"]) == {}


def test_threads_find_no_vector_of_another_text() -> None:
    recent, wrong = RecentVectors(), list[str]()

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(500):
            texts = [str(draw.randrange(100)) for _ in range(5)]
            found = recent.find(texts)
            wrong.extend(text for text, row in found.items() if row.tolist() != [float(text)] * 4)
            recent.add({text: np.full(4, float(text), np.float32) for text in texts}, 30)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(recent) == 30
