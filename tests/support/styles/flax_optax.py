"""JAX: a Flax module trained by optax; imported at the top, but no array is made before train."""

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import optax

import gpbt_async as gpbt


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(8)(x)))


def train(member):
    x = jax.random.normal(jax.random.PRNGKey(0), (128, 4))
    y = (x[:, :1] * x[:, 1:2] > 0).astype(jnp.float32)
    model = MLP()
    tx = optax.inject_hyperparams(optax.adamw)(learning_rate=member.config["lr"], weight_decay=member.config["wd"])
    params = model.init(jax.random.PRNGKey(member.seed), x)
    state = tx.init(params)
    if member.parent is not None:
        params = flax.serialization.from_bytes(params, (member.parent / "params.msgpack").read_bytes())

    def loss_fn(params, x, y):
        return optax.sigmoid_binary_cross_entropy(model.apply(params, x), y).mean()

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss_fn)(params, x[:96], y[:96])
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = step(params, state)
    member.report(loss=loss_fn(params, x[96:], y[96:]))
    (member.checkpoint / "params.msgpack").write_bytes(flax.serialization.to_bytes(params))


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-4, 1e-1, log=True), "wd": gpbt.Float(1e-6, 1e-1, log=True)},
    score="loss",
    mode="min",
)
