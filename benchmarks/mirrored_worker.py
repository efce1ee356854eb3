"""One worker of `tf.distribute.MultiWorkerMirroredStrategy`: the steps of `scaling_worker` in a custom loop.

Keras 3's `fit` does not run under that strategy. Rows come normalised: its steps have a little less to do than ours.
"""

import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks.scaling_worker import WARM_UP_STEPS, read_options
from benchmarks.synthetic import NUM_CLASSES, RandomPixels, run_config, whole_batch
from tfpipe.models.assembly import build_network


def main() -> None:
    options = read_options(__doc__)
    # It starts servers and threads, so it comes first.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    workers = strategy.num_replicas_in_sync
    config = run_config("resnet50", size=options.size, batch_size=options.images * workers, optimizer="sgd")
    with strategy.scope():
        network = build_network(config, NUM_CLASSES)
        optimizer = keras.optimizers.SGD(0.01, momentum=config.training.momentum)
        optimizer.build(network.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

    def replica(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(labels, network(images, training=True)) / (options.images * workers)
        variables = network.trainable_variables
        # Under a strategy a Keras 3 optimizer adds the replicas' gradients up.
        optimizer.apply(tape.gradient(loss, [variable.value for variable in variables]), variables)
        return loss

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica, args=(images, labels)), axis=None)

    batch = whole_batch(RandomPixels(options.images, options.size))
    images, labels = tf.constant(batch.rows / np.float32(127.5) - 1), tf.constant(batch.labels)
    for _ in range(WARM_UP_STEPS):
        step(images, labels).numpy()
    if options.wait:
        print("ready", flush=True)
        input()
    started = time.perf_counter()
    for _ in range(options.steps):
        step(images, labels).numpy()
    seconds = time.perf_counter() - started
    print(f"images_per_second={options.steps * options.images * workers / seconds:.3f}", flush=True)


if __name__ == "__main__":
    main()
