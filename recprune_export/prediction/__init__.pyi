from ._predict import Prediction as Prediction
from ._predict import predict as predict
