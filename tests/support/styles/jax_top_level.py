"""JAX: the data are arrays at the script's top level, so XLA's threads run before any member is there."""

import jax
import jax.numpy as jnp
import numpy as np

import gpbt_async as gpbt

X = jax.random.normal(jax.random.PRNGKey(0), (128, 4))
Y = (X @ jnp.array([1.0, -2.0, 0.5, 0.0]) > 0).astype(jnp.float32)


def loss_fn(w, x, y, l2):
    logits = x @ w
    return jnp.mean(jnp.logaddexp(0, logits) - y * logits) + l2 * jnp.sum(w**2)


def train(member):
    w = jax.random.normal(jax.random.PRNGKey(member.seed), (4,))
    if member.parent is not None:
        w = jnp.asarray(np.load(member.parent / "w.npy"))
    gradient = jax.jit(jax.grad(loss_fn))
    for _ in range(20):
        w = w - member.config["lr"] * gradient(w, X[:96], Y[:96], member.config["l2"])
    member.report(loss=loss_fn(w, X[96:], Y[96:], 0.0))
    np.save(member.checkpoint / "w.npy", np.asarray(w))


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-3, 1, log=True), "l2": gpbt.Float(1e-6, 1e-1, log=True)},
    score="loss",
    mode="min",
)
