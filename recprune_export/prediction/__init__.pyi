from ._predict import Prediction as Prediction
from ._predict import predict as predict
from .predict_folder import FolderPrediction as FolderPrediction
from .predict_folder import predict_folder as predict_folder
from .predictor import Predictor as Predictor
