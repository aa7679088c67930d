"""Normalizers of neural networks: one pure function each, found by its own name.

Every function takes arrays and keyword settings and changes none of them. Results have the type of the input
(float32 for integers) or `dtype`; statistics are float64, and a result is rounded once, at its end. Functions
with running statistics return `Normalized(y, state)`, the others y; `NAME_vjp` pulls a cotangent back.

>>> import numpy as np
>>> from normcli.tensor.normalizers import group_norm
>>> group_norm(np.array([[1.0, 3.0, 5.0, 7.0]], np.float32), groups=2).round(3)
array([[-1.,  1., -1.,  1.]], dtype=float32)
"""

# fmt: off
# isort: off
from normcli.tensor.normalizers.batch import batch_norm, batch_norm_vjp, ghost_batch_norm, ghost_batch_norm_vjp
from normcli.tensor.normalizers.conditional import (
    adaptive_layer_norm, adaptive_layer_norm_vjp, spatially_adaptive_norm, spatially_adaptive_norm_vjp,
)
from normcli.tensor.normalizers.convolution import (
    evo_norm, evo_norm_vjp, filter_response_norm, filter_response_norm_vjp, global_response_norm,
    global_response_norm_vjp,
)
from normcli.tensor.normalizers.cosine import cosine_norm, cosine_norm_vjp
from normcli.tensor.normalizers.layer import (
    adaptive_instance_norm, adaptive_instance_norm_vjp, group_norm, group_norm_statistics, group_norm_vjp,
    instance_norm, instance_norm_statistics, instance_norm_vjp, layer_norm, layer_norm_statistics, layer_norm_vjp,
)
from normcli.tensor.normalizers.local import (
    divisive_norm, divisive_norm_vjp, local_response_norm, local_response_norm_vjp,
)
from normcli.tensor.normalizers.lp import lp_batch_norm, lp_batch_norm_vjp
from normcli.tensor.normalizers.mixed import (
    batch_instance_norm, batch_instance_norm_vjp, switchable_norm, switchable_norm_vjp,
)
from normcli.tensor.normalizers.noise import noisy_batch_norm, noisy_batch_norm_vjp
from normcli.tensor.normalizers.power import power_norm, power_norm_vjp
from normcli.tensor.normalizers.registry import NORMALIZERS, Normalized, Normalizer, find
from normcli.tensor.normalizers.renorm import batch_renorm, batch_renorm_vjp
from normcli.tensor.normalizers.reversible import (
    reversible_instance_denorm, reversible_instance_denorm_vjp, reversible_instance_norm,
    reversible_instance_norm_statistics, reversible_instance_norm_vjp,
)
from normcli.tensor.normalizers.spectral import spectral_norm, spectral_norm_vjp
from normcli.tensor.normalizers.squashing import dynamic_erf, dynamic_erf_vjp, dynamic_tanh, dynamic_tanh_vjp
from normcli.tensor.normalizers.variance import mean_variance_norm, mean_variance_norm_vjp
from normcli.tensor.normalizers.vector import (
    lp_normalize, lp_normalize_vjp, pixel_norm, rms_norm, rms_norm_statistics, rms_norm_vjp, scale_norm, tensor_norm,
)
from normcli.tensor.normalizers.vector_gradients import pixel_norm_vjp, scale_norm_vjp, tensor_norm_vjp
from normcli.tensor.normalizers.views import resources
from normcli.tensor.normalizers.weight import (
    centred_weight_norm, centred_weight_norm_vjp, weight_norm, weight_norm_vjp, weight_standardization,
    weight_standardization_vjp,
)
from normcli.tensor.normalizers.whitening import iter_norm, iter_norm_vjp, zca_whitening, zca_whitening_vjp
# isort: on
# fmt: on

__all__ = ["NORMALIZERS", "Normalized", "Normalizer", "find", "resources"]
__all__ += ["batch_norm", "batch_norm_vjp", "batch_renorm", "batch_renorm_vjp", "ghost_batch_norm"]
__all__ += ["lp_batch_norm", "lp_batch_norm_vjp", "noisy_batch_norm", "noisy_batch_norm_vjp", "power_norm"]
__all__ += ["batch_instance_norm", "iter_norm", "mean_variance_norm", "switchable_norm", "zca_whitening"]
__all__ += ["group_norm", "group_norm_vjp", "instance_norm", "instance_norm_vjp", "layer_norm", "layer_norm_vjp"]
__all__ += ["adaptive_instance_norm", "lp_normalize", "lp_normalize_vjp", "rms_norm", "rms_norm_vjp"]
__all__ += ["centred_weight_norm", "pixel_norm", "scale_norm", "tensor_norm", "weight_norm", "weight_norm_vjp"]
__all__ += ["cosine_norm", "cosine_norm_vjp", "spectral_norm", "spectral_norm_vjp", "weight_standardization"]
__all__ += ["evo_norm", "filter_response_norm", "global_response_norm", "global_response_norm_vjp"]
__all__ += ["divisive_norm", "dynamic_tanh", "dynamic_tanh_vjp", "local_response_norm", "local_response_norm_vjp"]
__all__ += ["adaptive_instance_norm_vjp", "batch_instance_norm_vjp", "centred_weight_norm_vjp", "divisive_norm_vjp"]
__all__ += ["evo_norm_vjp", "filter_response_norm_vjp", "ghost_batch_norm_vjp", "iter_norm_vjp"]
__all__ += ["mean_variance_norm_vjp", "pixel_norm_vjp", "power_norm_vjp", "scale_norm_vjp"]
__all__ += ["switchable_norm_vjp", "tensor_norm_vjp", "weight_standardization_vjp", "zca_whitening_vjp"]
__all__ += ["adaptive_layer_norm", "dynamic_erf", "reversible_instance_denorm", "reversible_instance_norm"]
__all__ += ["group_norm_statistics", "instance_norm_statistics", "layer_norm_statistics", "rms_norm_statistics"]
__all__ += ["reversible_instance_norm_statistics", "spatially_adaptive_norm"]
__all__ += ["adaptive_layer_norm_vjp", "dynamic_erf_vjp", "reversible_instance_denorm_vjp"]
__all__ += ["reversible_instance_norm_vjp", "spatially_adaptive_norm_vjp"]
