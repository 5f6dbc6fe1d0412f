// The grouped head of mixture_cdf (checkpoints.md, mixture-cdf). Its masked product is c products of growing width, its last layer c products of
// one group each: nothing that the mask forbids is read, and no zero is multiplied.
#include "models/flow/coupling.h"

namespace noema {

namespace {

struct Group {
    Group(const Coupling& k, int64_t i)
        : M(k.stage.maf_hidden),
          width(3 * k.stage.num_components),
          seen(i * k.stage.maf_features),
          first_hidden(i * M),
          first_parameter(i * width) {}
    int64_t M, width, seen, first_hidden, first_parameter;
};

Weight part(const View& weight, int64_t first_row, int64_t rows, int64_t columns) {
    return {columns_of(rows_of(weight, first_row, rows), 0, columns)};
}

Weight features_of(const Coupling& k, const Group& i) {
    return part(k.weights.features, i.first_hidden, i.M, i.seen);
}
Weight out_of(const Coupling& k, const Group& i) {
    return part(k.weights.maf_out.weight.view, i.first_parameter, i.width, i.M);
}

/// sums_i += features_i y[scalars before i]
Status add_features(const Coupling& k, const Group& i, const Parameters& p, Context& c) {
    if (i.seen == 0) return {};
    Matmul m = weight_product(features_of(k, i), columns_of(p.features, 0, i.seen),
                              columns_of(p.sums, i.first_hidden, i.M), Precision::f32);
    m.accumulate = true;
    return matmul(m, c);
}

/// parameters_i = out_i hidden_i + bias_i
Status put_out(const Coupling& k, const Group& i, const Parameters& p, Context& c) {
    const View bias = rows_of(k.weights.maf_out.bias, i.first_parameter, i.width);
    return exact_linear({out_of(k, i), bias}, columns_of(p.hidden, i.first_hidden, i.M),
                        columns_of(p.all, i.first_parameter, i.width), c);
}

Status make_features(const Coupling& k, const View& h, const View& y, Context& c) {
    const int64_t n = k.config.channels(), E = k.stage.maf_features;
    return maf_features({.x = h,
                         .weight = as_shape(k.weights.embed.weight.view, {n - 1, E, 3}),
                         .bias = as_shape(k.weights.embed.bias, {n - 1, E}),
                         .y = y},
                        c);
}

}  // namespace

Status maf_forward(const Coupling& k, const View& g, const View& h, const Parameters& p, Context& c) {
    const int64_t n = k.config.channels();
    NOEMA_TRY(exact_linear(k.weights.maf_context, g, p.sums, c));
    NOEMA_TRY(make_features(k, h, p.features, c));
    for (int64_t i = 1; i < n; ++i) NOEMA_TRY(add_features(k, Group(k, i), p, c));
    NOEMA_TRY(gelu({.x = p.sums, .y = p.hidden}, c));
    for (int64_t i = 0; i < n; ++i) NOEMA_TRY(put_out(k, Group(k, i), p, c));
    return {};
}

namespace {

/// What scalar i, found, adds to the features: a head of two channels, of which the first counts.
Status add_scalar(const Coupling& k, int64_t i, const View& h, const Parameters& p, Context& c) {
    const int64_t E = k.stage.maf_features;
    return maf_features({.x = columns_of(h, i, 2),
                         .weight = as_shape(rows_of(k.weights.embed.weight.view, i * E, E), {1, E, 3}),
                         .bias = as_shape(rows_of(k.weights.embed.bias, i * E, E), {1, E}),
                         .y = columns_of(p.features, i * E, E)},
                        c);
}

}  // namespace

Status maf_scalars(const Coupling& k, const View& g, const ScalarWay& through, Context& c) {
    ArenaScope scope(*c.arena);
    const int64_t n = k.config.channels(), R = g.shape[0];
    const Parameters p = make_parameters(k, g, *c.arena);
    const View h = c.arena->tensor(DType::f32, R, n);
    NOEMA_TRY(c.clear(h));
    NOEMA_TRY(exact_linear(k.weights.maf_context, g, p.sums, c));
    for (int64_t i = 0; i < n; ++i) {
        const Group group(k, i);
        if (i > 0) NOEMA_TRY(add_scalar(k, i - 1, h, p, c));
        NOEMA_TRY(add_features(k, group, p, c));
        NOEMA_TRY(gelu({.x = columns_of(p.sums, group.first_hidden, group.M),
                        .y = columns_of(p.hidden, group.first_hidden, group.M)},
                       c));
        NOEMA_TRY(put_out(k, group, p, c));
        View parameters = columns_of(p.all, group.first_parameter, group.width);
        parameters.rank = 3, parameters.shape[1] = 1, parameters.shape[2] = group.width;
        parameters.stride[1] = group.width, parameters.stride[2] = 1;
        NOEMA_TRY(through(i, parameters, columns_of(h, i, 1)));
    }
    return {};
}

// --- the same lines from bottom to top -------------------------------------------------------------------------------

namespace {

/// parameters_i = out_i hidden_i + bias_i
Status put_out_backward(const Coupling& k, const Group& i, const Parameters& p, const StageGradients& g,
                        const MafGradients& d, const View& d_hidden, Context& c) {
    const View d_own = columns_of(d.parameters, i.first_parameter, i.width);
    const BiasedGradient gradient{rows_of(g.maf_out.weight, i.first_parameter, i.width),
                                  rows_of(g.maf_out.bias, i.first_parameter, i.width)};
    NOEMA_TRY(exact_linear_backward(columns_of(p.hidden, i.first_hidden, i.M), d_own, gradient, c));
    return linear_input_gradient(out_of(k, i), d_own, columns_of(d_hidden, i.first_hidden, i.M), false, Precision::f32,
                                 c);
}

/// sums_i += features_i y[scalars before i]
Status add_features_backward(const Coupling& k, const Group& i, const Parameters& p, const View& d_weight,
                             const View& d_sums, const View& d_features, Context& c) {
    if (i.seen == 0) return {};
    const View d_own = columns_of(d_sums, i.first_hidden, i.M);
    const View d_used = columns_of(rows_of(d_weight, i.first_hidden, i.M), 0, i.seen);
    NOEMA_TRY(linear_weight_gradient(d_own, columns_of(p.features, 0, i.seen), d_used, Precision::f32, c));
    return linear_input_gradient(features_of(k, i), d_own, columns_of(d_features, 0, i.seen), true, Precision::f32, c);
}

}  // namespace

Status maf_backward(const Coupling& k, const View& g, const View& h, const Parameters& p,
                    const StageGradients& gradients, const MafGradients& d, Context& c) {
    const int64_t n = k.config.channels(), E = k.stage.maf_features;
    ArenaScope scope(*c.arena);
    const View d_sums = c.arena->tensor(DType::f32, p.sums.shape[0], p.sums.shape[1]);
    const View d_features = c.arena->tensor(DType::f32, p.features.shape[0], p.features.shape[1]);
    NOEMA_TRY(c.clear(d_features));
    for (int64_t i = 0; i < n; ++i) NOEMA_TRY(put_out_backward(k, Group(k, i), p, gradients, d, d_sums, c));

    // hidden = gelu(sums)
    NOEMA_TRY(gelu_backward({.x = p.sums, .d_y = d_sums, .d_x = d_sums}, c));
    for (int64_t i = n; i-- > 1;)
        NOEMA_TRY(add_features_backward(k, Group(k, i), p, gradients.features, d_sums, d_features, c));

    // features = gelu(embed (h, elu(h), elu(-h)) + bias)
    NOEMA_TRY(maf_features_backward({.x = h,
                                     .weight = as_shape(k.weights.embed.weight.view, {n - 1, E, 3}),
                                     .bias = as_shape(k.weights.embed.bias, {n - 1, E}),
                                     .d_y = d_features,
                                     .d_x = d.h,
                                     .d_weight = as_shape(gradients.embed.weight, {n - 1, E, 3}),
                                     .d_bias = as_shape(gradients.embed.bias, {n - 1, E})},
                                    c));

    // sums = context g + bias
    NOEMA_TRY(exact_linear_backward(g, d_sums, gradients.maf_context, c));
    return linear_input_gradient(k.weights.maf_context.weight, d_sums, d.g, false, Precision::f32, c);
}

}  // namespace noema
