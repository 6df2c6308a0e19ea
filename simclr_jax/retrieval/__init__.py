"""What features are used for: search, near-duplicates, subsets that stand for the whole, clusters, maps.

Arrays in, numbers out; no network, no files. Rows are compared by the cosine of their angle, as in the kNN probe, so
their lengths do not matter. Features may be float16 or lie on disk: they are read in chunks.
"""

from simclr_jax.retrieval.approximate import ApproximateIndex, build_index, measure_recall
from simclr_jax.retrieval.clusters import Clusters, cluster_rows, clustering_accuracy, mutual_information, silhouette
from simclr_jax.retrieval.duplicates import (
    Pairs,
    equal_pairs,
    group_rows,
    near_pairs,
    nearest_others,
    suggest_threshold,
)
from simclr_jax.retrieval.exact import search, search_others, without_self
from simclr_jax.retrieval.projection import Projection, map_2d, project_rows
from simclr_jax.retrieval.subsets import Cover, k_center, outliers, typical_rows, typicality

__all__ = [
    "ApproximateIndex",
    "Clusters",
    "Cover",
    "Pairs",
    "Projection",
    "build_index",
    "cluster_rows",
    "clustering_accuracy",
    "equal_pairs",
    "group_rows",
    "k_center",
    "map_2d",
    "measure_recall",
    "mutual_information",
    "near_pairs",
    "nearest_others",
    "outliers",
    "project_rows",
    "search",
    "search_others",
    "silhouette",
    "suggest_threshold",
    "typical_rows",
    "typicality",
    "without_self",
]
