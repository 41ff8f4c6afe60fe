"""The rules: match-making, verdicts, reputation, preference pairs. Pure functions, no torch, no files."""

from sparta_lite.combat.bradley_terry import interval
from sparta_lite.combat.curriculum import CurriculumSettings, progress
from sparta_lite.combat.duel import Bout, Duel, Votes, judges
from sparta_lite.combat.matchmaking import MatchSettings, schedule
from sparta_lite.combat.preference import Preference, preferences
from sparta_lite.combat.reputation import KINDS, Kind, Rating, Reading, ReputationSettings, update
from sparta_lite.combat.standing import Settlement, Standing, begin, settle
from sparta_lite.combat.traces import as_trace, replay, replay_preferences, settle_trace
from sparta_lite.combat.verdict import Verdict, aggregate

__all__ = [
    "KINDS",
    "Bout",
    "CurriculumSettings",
    "Duel",
    "Kind",
    "MatchSettings",
    "Preference",
    "Rating",
    "Reading",
    "ReputationSettings",
    "Settlement",
    "Standing",
    "Verdict",
    "Votes",
    "aggregate",
    "as_trace",
    "begin",
    "interval",
    "judges",
    "preferences",
    "progress",
    "replay",
    "replay_preferences",
    "schedule",
    "settle",
    "settle_trace",
    "update",
]
