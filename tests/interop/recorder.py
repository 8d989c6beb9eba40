"""A callback of scikit-learn's protocol that the tests share."""


class Recorder:
    """Notes each call.

    Parameters
    ----------
    stop_after : int, default=None
        Epoch after which it stops the fit.
    """

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
        self.calls.append(("begin", context.task_name, context.task_id, len(X), len(y)))

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None, metadata=None):
        self.calls.append(("end", context.task_name, context.task_id, metadata))
        return context.task_name == "epoch" and context.task_id + 1 == self.stop_after
