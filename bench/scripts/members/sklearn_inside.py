"""A scikit-learn member that imports its estimator inside train."""

import gpbt_async as gpbt


def train(member):
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier

    x, y = load_digits(return_X_y=True)
    model = SGDClassifier(max_iter=2, tol=None)
    if member.parent is not None:
        model = joblib.load(member.parent / "model.joblib")
    model.set_params(alpha=member.config["alpha"]).partial_fit(x[:1000], y[:1000], classes=range(10))
    joblib.dump(model, member.checkpoint / "model.joblib")
    member.report(accuracy=model.score(x[1000:], y[1000:]))


space = {"alpha": gpbt.Float(1e-6, 1e-1, log=True)}
experiment = gpbt.Experiment(train, space=space, score="accuracy", mode="max", population=6, generations=2)
