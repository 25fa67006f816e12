"""What can be set, where it comes from, and what is wrong with it."""

from tusgate.settings.model import Settings
from tusgate.settings.sources import Loaded, load_settings

__all__ = ["Loaded", "Settings", "load_settings"]
