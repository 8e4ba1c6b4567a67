"""Reinforcement learning: REINFORCE on a cart-pole written in numpy, scored by the mean return of an episode."""

import math

import numpy as np

import gpbt_async as gpbt


class CartPole:
    def reset(self):
        self.state = np.random.uniform(-0.05, 0.05, 4)
        self.steps = 0
        return self.state

    def step(self, action):
        x, v, angle, spin = self.state
        force = 10.0 if action else -10.0
        cos, sin = math.cos(angle), math.sin(angle)
        push = (force + 0.05 * spin**2 * sin) / 1.1
        angular = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        linear = push - 0.05 * angular * cos / 1.1
        self.state = np.array([x + 0.02 * v, v + 0.02 * linear, angle + 0.02 * spin, spin + 0.02 * angular])
        self.steps += 1
        done = abs(self.state[0]) > 2.4 or abs(self.state[2]) > 0.2095 or self.steps >= 200
        return self.state, 1.0, done


def rollout(env, theta):
    states, actions, rewards, done = [env.reset()], [], [], False
    while not done:
        p = 1 / (1 + math.exp(-float(states[-1] @ theta)))
        actions.append(int(np.random.rand() < p))
        state, reward, done = env.step(actions[-1])
        states.append(state)
        rewards.append(reward)
    return np.array(states[:-1]), np.array(actions), np.array(rewards)


def train(member):
    lr, gamma = member.config["lr"], member.config["gamma"]
    theta = np.zeros(4) if member.parent is None else np.load(member.parent / "policy.npy")
    env = CartPole()
    for iteration in range(6):
        lengths, gradient = [], np.zeros(4)
        for _ in range(8):
            states, actions, rewards = rollout(env, theta)
            returns = np.zeros(len(rewards))
            running = 0.0
            for t in reversed(range(len(rewards))):
                running = rewards[t] + gamma * running
                returns[t] = running
            returns = (returns - returns.mean()) / (returns.std() + 1e-8)
            p = 1 / (1 + np.exp(-states @ theta))
            gradient += ((actions - p) * returns) @ states
            lengths.append(len(rewards))
        theta = theta + lr * gradient / 8
        if iteration % 3 == 2:
            member.report(mean_return=np.mean(lengths))
    np.save(member.checkpoint / "policy.npy", theta)


experiment = gpbt.Experiment(
    train,
    space={"lr": gpbt.Float(1e-2, 1, log=True), "gamma": gpbt.Float(0.9, 0.999)},
    score="mean_return",
    mode="max",
)
