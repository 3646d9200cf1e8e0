"""Predictions of several networks, snapshots, draws or views put together, and what that gains."""

from models.ensembles.ensemble import Ensemble, ask_ensemble
from models.ensembles.members import MEMBERS
from models.ensembles.report import report_on
from models.ensembles.views import VIEWS

__all__ = ["MEMBERS", "VIEWS", "Ensemble", "ask_ensemble", "report_on"]
