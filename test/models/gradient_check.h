// A trainer's gradients against the differences of its loss, in a random direction of every tensor.
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "doctest/doctest.h"
#include "models/random_weights.h"

namespace noema::test {

/// `loss` is of the trainer's present parameters; the trainer holds its gradients. `row` keys the directions.
template <class Trainer>
void check_gradients(Engine& engine, Trainer& trainer, const std::vector<TensorSpec>& specs, uint32_t row,
                     const std::function<double()>& loss) {
    for (const TensorSpec& spec : specs) {
        INFO("tensor ", spec.name);
        std::vector<float> gradient(spec.size()), values(spec.size()), direction(spec.size());
        REQUIRE(trainer.read(engine, TrainerBuffer::gradient, spec.name, gradient.data()).ok());
        REQUIRE(trainer.read(engine, TrainerBuffer::parameter, spec.name, values.data()).ok());
        for (size_t i = 0; i < direction.size(); ++i) direction[i] = normal(row, static_cast<uint32_t>(i));
        ++row;
        double slope = 0, square = 0;
        for (size_t i = 0; i < direction.size(); ++i) {
            slope += static_cast<double>(gradient[i]) * direction[i];
            square += static_cast<double>(gradient[i]) * gradient[i];
        }
        CHECK(square > 0);
        const auto loss_at = [&](float step) {
            std::vector<float> moved = values;
            for (size_t i = 0; i < moved.size(); ++i) moved[i] += step * direction[i];
            REQUIRE(trainer.write(engine, TrainerBuffer::parameter, spec.name, moved.data()).ok());
            return loss();
        };
        // The losses are f32: a wider step would bend, a narrower one drown in their rounding.
        const double difference = (loss_at(2e-3f) - loss_at(-2e-3f)) / 4e-3;
        REQUIRE(trainer.write(engine, TrainerBuffer::parameter, spec.name, values.data()).ok());
        CHECK_MESSAGE(std::fabs(difference - slope) <= 5e-3 * std::sqrt(square) + 5e-5, difference, " ", slope);
    }
}

}  // namespace noema::test
