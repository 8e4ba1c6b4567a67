"""Adapters for libraries that treat only the exact type dict as a dict: they register the config's class there.

Without them, YAML refuses to write a config, and JAX and torch treat the whole config as one leaf of a tree. They take
effect when the library is imported. OmegaConf has no such registration: a script gives it `dict(member.config)`.
"""

from __future__ import annotations

from typing import Any

from . import hooks
from .config import MemberConfig, peek


def watch() -> None:
    """From now on, in this process and those forked from it."""
    hooks.after_import("yaml.representer", _yaml)
    hooks.after_import("jax.tree_util", _jax)
    hooks.after_import("torch.utils._pytree", _torch)


def _yaml(representer: Any) -> None:
    for kind in (representer.SafeRepresenter, representer.Representer):
        kind.add_representer(MemberConfig, lambda dumper, config: dumper.represent_dict(dict(config)))


def _jax(tree_util: Any) -> None:
    def flatten(config: MemberConfig) -> tuple[list[Any], tuple[str, ...]]:
        names = tuple(sorted(peek(config)))  # the order in which JAX takes a dict
        return [config[name] for name in names], names

    tree_util.register_pytree_node(MemberConfig, flatten, lambda names, values: dict(zip(names, values, strict=True)))


def _torch(pytree: Any) -> None:
    pytree.register_pytree_node(
        MemberConfig,
        lambda config: (list(dict(config).values()), list(peek(config))),
        lambda values, names: dict(zip(names, values, strict=True)),
        serialized_type_name="gpbt_async.MemberConfig",
    )
