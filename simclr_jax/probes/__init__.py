"""Probes: how much a frozen representation tells. Feature arrays in, numbers out; no network, no files.

Every probe has a named protocol which is written next to its score, and the label subsets are fixed, so that two
numbers with the same protocol can be compared.
"""

from simclr_jax.probes.baselines import histogram_features, pixel_features, reduce_by_pca, small_images
from simclr_jax.probes.classifier import class_scores, top_k_accuracy
from simclr_jax.probes.doctor import Signs, diagnose
from simclr_jax.probes.image_text import chance_recall, class_vectors, retrieval_recall, zero_shot_accuracy
from simclr_jax.probes.label_free import (
    alignment,
    effective_rank,
    feature_deviation,
    label_free_scores,
    rankme,
    uniformity,
)
from simclr_jax.probes.labelled import (
    cautions,
    knn_accuracy,
    labelled_rows,
    largest_error,
    linear_accuracy,
    rows_to_train,
    why_no_probe,
)
from simclr_jax.probes.leaks import near_duplicates
from simclr_jax.probes.least_squares import RidgeProbe, fit_ridge, ridge
from simclr_jax.probes.logistic import LinearClassifier, LinearProbe, fit_linear, fit_logistic, linear
from simclr_jax.probes.nearest import accuracy, confusion, knn, knn_protocol, neighbors, vote
from simclr_jax.probes.protocols import (
    PROTOCOLS,
    Protocol,
    best_on_test,
    find_protocol,
    protocol_label,
    protocol_name,
    templates_name,
)
from simclr_jax.probes.rows import probe_rows
from simclr_jax.probes.settings import ProbeSettings, make_settings
from simclr_jax.probes.subsets import label_subset, rows_by_name, stratified_split

__all__ = [
    "PROTOCOLS",
    "LinearClassifier",
    "LinearProbe",
    "ProbeSettings",
    "Protocol",
    "RidgeProbe",
    "Signs",
    "accuracy",
    "alignment",
    "best_on_test",
    "cautions",
    "chance_recall",
    "class_scores",
    "class_vectors",
    "confusion",
    "diagnose",
    "effective_rank",
    "feature_deviation",
    "find_protocol",
    "fit_linear",
    "fit_logistic",
    "fit_ridge",
    "histogram_features",
    "knn",
    "knn_accuracy",
    "knn_protocol",
    "label_free_scores",
    "label_subset",
    "labelled_rows",
    "largest_error",
    "linear",
    "linear_accuracy",
    "make_settings",
    "near_duplicates",
    "neighbors",
    "pixel_features",
    "probe_rows",
    "protocol_label",
    "protocol_name",
    "rankme",
    "reduce_by_pca",
    "retrieval_recall",
    "ridge",
    "rows_by_name",
    "rows_to_train",
    "small_images",
    "stratified_split",
    "templates_name",
    "top_k_accuracy",
    "uniformity",
    "vote",
    "why_no_probe",
    "zero_shot_accuracy",
]
