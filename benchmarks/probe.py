"""The linear probe of the `cached` protocol: 13 learning rates x 20 epochs, the choice, the final layer, the test; and
k-NN on the same features. Prints JSON."""

import argparse
import json
import statistics
import time

import torch

from benchmarks.measure import seconds
from perceptual_mae.data import cores
from perceptual_mae.evaluation.knn import KS, knn_scores
from perceptual_mae.evaluation.linear_probe import cached_probe
from perceptual_mae.evaluation.probe_config import LinearProbeConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16_000, help="training images; a tenth as many are tested on")
    parser.add_argument("--width", type=int, default=384, help="numbers of a feature")
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    # How long it takes does not depend on what the features say.
    random = torch.Generator().manual_seed(0)
    count = options.images + options.images // 10
    labels = torch.randint(options.classes, (count,), generator=random)
    centres = torch.randn(options.classes, options.width, generator=random)
    features = 0.3 * centres[labels] + torch.randn(count, options.width, generator=random)
    cut = [options.images, options.images // 10]
    (train, test), (train_labels, test_labels) = features.split(cut), labels.split(cut)

    before = time.process_time()
    probe = [seconds(lambda: cached_probe(train, train_labels, test, test_labels)) for _ in range(options.rounds)]
    processor = (time.process_time() - before) / options.rounds
    knn = [seconds(lambda: knn_scores(train, train_labels, test, test_labels)) for _ in range(options.rounds)]
    config = LinearProbeConfig()
    result = {
        "benchmark": "probe",
        "features": list(train.shape),
        "classes": options.classes,
        "learning_rates": len(config.learning_rates),
        "epochs": config.epochs,
        "threads": torch.get_num_threads(),
        "cores": cores(),
        "probe_seconds": round(statistics.median(probe), 2),
        "probe_processor_seconds": round(processor, 2),
        "probe_seconds_least": round(min(probe), 2),
        "knn_seconds": round(statistics.median(knn), 2),
        "knn_ks": list(KS),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
