"""What the tests of the joblib backend call; workers over AMQP import it too."""

import os
import time

from joblib import Parallel, delayed, parallel
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC


def squared(number):
    return number * number


def inverse(number):
    return 1 / number


def slot():
    return os.getpid()


def nested(count):
    """Return what joblib computes within a call, with which backend, and in which processes."""
    backend = type(parallel.get_active_backend()[0]).__name__
    found = Parallel(n_jobs=4)(delayed(squared)(number) for number in range(count))
    pids = Parallel(n_jobs=4)(delayed(slot)() for _ in range(count))
    return found, backend, set(pids) == {os.getpid()}


def held(began, until):
    """Note the process in a file; return once another file exists, or after a long time."""
    with open(began, "w") as file:
        file.write(str(os.getpid()))
    deadline = time.monotonic() + 100
    while not os.path.exists(until) and time.monotonic() < deadline:
        time.sleep(0.005)


def digits():
    features, target = load_digits(return_X_y=True)
    return features[:300], target[:300]


def searched():
    """Return what a grid search finds, to the last bit."""
    search = GridSearchCV(SVC(), {"C": [0.1, 1, 10], "gamma": [1e-3, 1e-4]}, cv=3).fit(*digits())
    return search.cv_results_["mean_test_score"].tobytes(), search.best_params_


def grown():
    """Return what a random forest is, to the last bit."""
    features, target = digits()
    forest = RandomForestClassifier(20, random_state=3).fit(features, target)
    return forest.predict_proba(features).tobytes(), forest.feature_importances_.tobytes()
