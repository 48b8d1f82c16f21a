/// @file
/// Foresight: what fits, and what it costs, of a model that is only declared, before any machine is rented.
///
/// @code
/// const plan::Model model = plan::paper_gpt({.layers = 50, .hidden = 8192, .sequence = 1024, .batch = 8});
/// const plan::Setting setting{.ranks = 16,
///                             .processor = plan::Processor::gpu,
///                             .placing = {plan::Place::nvme, plan::Place::host, plan::Place::nvme},
///                             .device_budget = 32_GiB,
///                             .host_budget = 128_GiB};
/// const plan::Footprint bytes = plan::bytes_of(model, setting);                    // or a BudgetError
/// const plan::Prediction step = plan::predict(model, setting, dgx2);               // seconds, and what they go to
/// @endcode
#pragma once

#include <zerospan/plan/advice.hpp>
#include <zerospan/plan/choose.hpp>
#include <zerospan/plan/footprint.hpp>
#include <zerospan/plan/gpt.hpp>
#include <zerospan/plan/linear.hpp>
#include <zerospan/plan/model.hpp>
#include <zerospan/plan/planned_span.hpp>
#include <zerospan/plan/predict.hpp>
#include <zerospan/plan/setting.hpp>
