"""Every field there is, by the values that it is built from."""

from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.scene_function import SceneFunction

FieldConfig = Grid | Mlp | SceneFunction
