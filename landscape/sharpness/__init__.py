"""Sharpness in all its published forms: each measure a function of an objective that answers with its own error."""

from landscape.sharpness.average import average_case
from landscape.sharpness.box import keskar
from landscape.sharpness.curvature import hessian_trace, largest_eigenvalue
from landscape.sharpness.pac_bayes import pac_bayes
from landscape.sharpness.point import Measured, Point
from landscape.sharpness.ranks import RankCorrelation, rank_correlation
from landscape.sharpness.report import SharpnessReport, generalization
from landscape.sharpness.worst_case import m_sharpness, sam, sam_one_step

__all__ = [
    "Measured",
    "Point",
    "RankCorrelation",
    "SharpnessReport",
    "average_case",
    "generalization",
    "hessian_trace",
    "keskar",
    "largest_eigenvalue",
    "m_sharpness",
    "pac_bayes",
    "rank_correlation",
    "sam",
    "sam_one_step",
]
