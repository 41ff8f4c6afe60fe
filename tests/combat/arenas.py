"""Random tribes and votes for the property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from sparta_lite.combat import Bout, Duel, Rating, judges

TRIBE = ("ada", "bea", "cai", "dov", "eli")

scores = st.floats(1.0, 10.0)
maybe_scores = st.one_of(st.none(), scores)
ratings = st.builds(Rating, st.floats(10.0, 300.0), st.floats(0.1, 30.0))


@st.composite
def bouts(
    draw: st.DrawFn, size: int = 12, score: st.SearchStrategy[float | None] = maybe_scores
) -> list[Bout]:
    found: list[Bout] = []
    for index in range(draw(st.integers(1, size))):
        first, second = draw(st.permutations(TRIBE))[:2]
        duel = Duel(index, index, (first, second))
        found.append((duel, {judge: (draw(score), draw(score)) for judge in judges(duel, TRIBE)}))
    return found
