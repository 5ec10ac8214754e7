from ._predict import Prediction as Prediction
from ._predict import predict as predict
from .predictor import Predictor as Predictor
