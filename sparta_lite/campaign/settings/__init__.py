"""Everything that a run can be told, section by section."""

from sparta_lite.campaign.settings.config import SIZES, Config
from sparta_lite.campaign.settings.duels import Judge
from sparta_lite.campaign.settings.inputs import POCKET, PRESET, Tribe
from sparta_lite.campaign.settings.section import Section

__all__ = ["POCKET", "PRESET", "SIZES", "Config", "Judge", "Section", "Tribe"]
