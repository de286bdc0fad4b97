"""What evaluations read: true labels, masks, and the predictions to compare with."""

from cryoseg.folders import file_names, spelled
from cryoseg.volume_folders import LABEL_ENDINGS, MASK_ENDINGS

# The stage's file with the chosen thresholds, in the folder of its evaluation.
CONFIGURATION = "config_with_thresholds.yaml"


class EvaluationStages:
    """What Stages knows of the evaluate blocks under predict."""

    def stages_to_evaluate(self):
        """Names of the stages that are evaluated."""
        return [name for name, stage in self.predict.items() if stage["evaluate"]]

    def true_labels(self, name):
        """(folder, ending) of a stage's true labels; a file is folder/name + ending."""
        stage = self.predict[name]
        endings = (stage["file_extension"], *LABEL_ENDINGS)
        folder = stage["evaluate"]["labels_folder"]
        return self.companions(folder, self.names_to_predict(name), endings)

    def names_to_evaluate(self, name):
        """Sorted names of the tomograms of a stage that have true labels."""
        return self.those_with_labels(name, self.names_to_predict(name))

    def those_with_labels(self, name, names):
        """Those of the names of tomograms of which a stage has true labels."""
        folder, ending = self.true_labels(name)
        return self._those_with(folder, ending, names)

    def evaluation_masks(self, name):
        """(folder, ending) of the masks that an evaluation keeps within, or None."""
        folder = self.predict[name]["evaluate"]["mask_folder"]
        return folder and self.companions(folder, self.names_to_evaluate(name), MASK_ENDINGS)

    def compared_folder(self, name):
        """Folder of the predictions that a stage is compared with, or None."""
        other = self.predict[name]["evaluate"]["compare_with"]
        if other in self.predict:
            return self.predict[other].get("prediction_folder")
        return other

    def compared_predictions(self, name):
        """(folder, ending, names of the tomograms that are there too), or None."""
        folder = self.compared_folder(name)
        if not folder:
            return None
        names = self.names_to_evaluate(name)
        place, ending = self.companions(folder, names, MASK_ENDINGS)
        return place, ending, self._those_with(place, ending, names)

    def _those_with(self, folder, ending, names):
        """Those of the tomograms that have a file in a folder, or will have one."""
        writer = self.writer_of(folder)
        if writer:
            there = self.names_by(writer)
            return [each for each in names if each in there]
        there = set(file_names(folder))
        return [each for each in names if each + ending in there]


def evaluation_folder(stage):
    """Folder of a stage's evaluation."""
    return f"{spelled(stage['prediction_folder'])}/evaluation"


def chooses_thresholds(stage):
    """Whether thresholds are to be chosen for a stage by its evaluation."""
    return bool(stage["evaluate"]) and stage["evaluate"]["choose_thresholds"]
