"""Adversarial attacks on any predictor: `pgd` for training, `apgd`, `square` and `fab` for evaluation.

Modules are imported one by one, so that a job depends on the code of the attacks it makes and of no other.
"""
