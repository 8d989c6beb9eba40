"""
Save a model, and give it to other libraries
============================================

One fitted classifier as a file of ours, as a module of PyTorch, as scikit-learn's own estimator and as ONNX; and a
pipeline around it by skops. It takes ``pip install "sktorch-mlp[plot,safetensors,skops,onnx]" onnxruntime``::

    python examples/save_and_export.py
"""

import pickle
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import skops.io
import torch
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sktorch_mlp
import sktorch_mlp.onnx  # lets skl2onnx know our estimators
from sktorch_mlp import MLPTorchClassifier

folder = Path(tempfile.mkdtemp())
X, y = load_digits(return_X_y=True)
X = X.astype(np.float32) / 16
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
model = MLPTorchClassifier(early_stopping=True, normalization="batch", random_state=0).fit(X_train, y_train)
probabilities = model.predict_proba(X_test)
print(f"test accuracy {model.score(X_test, y_test):.3f}")

# %%
# A file of ours
# --------------
# It has no code in it, and every later release reads it. Predictions are the same to the last bit, and training goes on where
# it was.

model.save(folder / "digits.safetensors")
loaded = sktorch_mlp.load(folder / "digits.safetensors")
np.testing.assert_array_equal(loaded.predict_proba(X_test), probabilities)
loaded.set_params(early_stopping=False).partial_fit(X_train, y_train)

# %%
# PyTorch
# -------
# Plain modules, to be trained further, exported or served.

module = model.to_torch()
with torch.no_grad():
    logits = module(torch.from_numpy(X_test))
np.testing.assert_allclose(torch.softmax(logits, dim=1), probabilities, atol=1e-6)
torch.save(module.state_dict(), folder / "digits.pt")
print(module)

# %%
# ONNX
# ----
# For servers without Python: onnxruntime computes the same.

exported = to_onnx(model, X[:1], options={"zipmap": False})
(folder / "digits.onnx").write_bytes(exported.SerializeToString())
session = onnxruntime.InferenceSession(folder / "digits.onnx")
labels, from_onnx = session.run(None, {"X": X_test})
np.testing.assert_allclose(from_onnx, probabilities, atol=1e-5)

# %%
# scikit-learn
# ------------
# For those who have no PyTorch. What scikit-learn's MLP lacks cannot go there, and is refused by name:

try:
    model.to_sklearn()
except ValueError as error:
    print(error)

# %%
plain = MLPTorchClassifier(max_iter=100, tol=0.01, random_state=0).fit(X_train, y_train)
given = plain.to_sklearn()
np.testing.assert_allclose(given.predict_proba(X_test), plain.predict_proba(X_test), atol=1e-6)
given

# %%
# A pipeline
# ----------
# skops stores pipelines and searches. It has to be told to trust our class, and no other.

pipeline = make_pipeline(StandardScaler(), model).fit(X_train, y_train)
skops.io.dump(pipeline, folder / "pipeline.skops")
print(skops.io.get_untrusted_types(file=folder / "pipeline.skops"))
skops.io.load(folder / "pipeline.skops", trusted=["sktorch_mlp.MLPTorchClassifier"])

# %%
# How large
# ---------
# Files of ours and pickles hold what training needs to go on, the moments of Adam, beside the weights: three times their size.

(folder / "digits.pickle").write_bytes(pickle.dumps(model))
names = ["digits.onnx", "digits.pt", "digits.safetensors", "digits.pickle", "pipeline.skops"]
sizes = [(folder / name).stat().st_size / 1024 for name in names]
figure, axes = plt.subplots(figsize=(6, 2.5), layout="constrained")
axes.barh(names, sizes)
axes.invert_yaxis()
axes.set_xlabel(f"KiB; the weights are {sum(array.nbytes for array in model.coefs_) / 1024:.0f}")
plt.show()
