"""`params.yaml` as frozen, typed sections: an unknown key, a wrong type or an impossible value dies here."""

from pipeline.config.as_yaml import *  # noqa: F403
from pipeline.config.data import *  # noqa: F403
from pipeline.config.params import *  # noqa: F403
from pipeline.config.recipes import *  # noqa: F403
from pipeline.config.section import *  # noqa: F403
