"""The papers whose figures are reproduced, by the first word of their figures' names."""

PAPERS = {
    "loo": "Evolution of Neural Tangent Kernels under Benign and Adversarial Training (Loo et al. 2022)",
    "su": "On the Robustness of Neural Collapse and the Neural Collapse of Robustness (Su et al. 2023)",
    "tsilivis": "What Can the NTK Tell Us About Adversarial Robustness? (Tsilivis & Kempe 2022)",
}

CITED = {"loo": "Loo et al. 2022", "su": "Su et al. 2023", "tsilivis": "Tsilivis & Kempe 2022"}

TOGETHER = "The three papers together"
