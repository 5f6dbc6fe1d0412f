#include "models/layers/transformer_block.h"

namespace noema {

Matmul weight_product(const Weight& weight, const View& x, const View& y, Precision precision) {
    Matmul p{.a = x, .b = weight.view, .c = y, .precision = precision, .transpose_b = true};
    if (weight.packed && weight.packed_precision == precision) p.packed_b = weight.packed;
    return p;
}

Status linear(const Weight& weight, const View& x, const View& y, const View& residual, Precision precision,
              Context& context) {
    Matmul p = weight_product(weight, x, y, precision);
    p.residual = residual;
    return matmul(p, context);
}

Status biased_linear(const BiasedWeight& weight, const View& x, const View& y, Precision precision, Context& context) {
    Matmul p = weight_product(weight.weight, x, y, precision);
    p.bias = weight.bias;
    return matmul(p, context);
}

Status biased_linear_gradients(const View& d_y, const View& x, const BiasedGradient& gradient, Precision precision,
                               Context& context) {
    NOEMA_TRY(linear_weight_gradient(d_y, x, gradient.weight, precision, context));
    if (!gradient.bias) return {};
    return reduce({.x = d_y, .y = gradient.bias, .axis = ReduceAxis::rows, .accumulate = true}, context);
}

Status linear_input_gradient(const Weight& weight, const View& d_y, const View& d_x, bool accumulate,
                             Precision precision, Context& context) {
    Matmul p{.a = d_y, .b = weight.view, .c = d_x, .precision = precision, .accumulate = accumulate};
    if (weight.packed_transposed && weight.packed_precision == precision) p.packed_b = weight.packed_transposed;
    return matmul(p, context);
}

Status linear_weight_gradient(const View& d_y, const View& x, const View& d_weight, Precision precision,
                              Context& context) {
    if (!d_weight) return {};
    return matmul({.a = d_y, .b = x, .c = d_weight, .precision = precision, .transpose_a = true, .accumulate = true},
                  context);
}

}  // namespace noema
