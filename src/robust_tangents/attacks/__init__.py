"""Adversarial attacks on any predictor: `pgd` for training, `apgd`, `square` and `fab` for evaluation.

Modules are imported one by one, so that a job depends on the code of the attacks it makes and of no other.
"""

CLASSES_OF_DLR = {False: 3, True: 4}
"""Classes that the difference-of-logits ratio needs, untargeted and targeted."""
