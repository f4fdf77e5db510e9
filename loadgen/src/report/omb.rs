//! The JSON of the OpenMessaging Benchmark, so that its charts draw our runs.

use crate::judge::result::{LatencyFound, RunResult, Sample};
use serde_json::{Map, Value, json};

/// Its fields by its names; rates per second, latencies in milliseconds, but for the publish delay,
/// which it keeps in microseconds. Publish latencies here count from the planned time; its own count
/// from the send.
pub(crate) fn of(result: &RunResult) -> Value {
    let series = |of: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
        result
            .series
            .iter()
            .filter(|s| s.at_s > 0.0 && s.at_s <= result.measured_s + 1.0)
            .map(of)
            .collect()
    };
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    put("workload", json!(super::text::load_line(result)));
    put("driver", json!("weir-loadgen"));
    put("messageSize", json!(result.throughput.record_bytes.round()));
    put("topics", json!(result.option("topics").parse::<u32>().unwrap_or(1)));
    put("partitions", json!(result.option("partitions").parse::<u32>().unwrap_or(1)));
    put("producersPerTopic", json!(result.option("producers").parse::<u32>().unwrap_or(1)));
    put("consumersPerTopic", json!(result.option("consumers").parse::<u32>().unwrap_or(1)));
    put("publishRate", json!(series(&|s| s.acked_per_s)));
    put("consumeRate", json!(series(&|s| s.consumed_per_s)));
    put("publishErrorRate", json!(series(&|_| 0.0)));
    put("backlog", json!(series(&|s| s.lag_records.iter().sum::<i64>() as f64)));
    put("publishLatency50pct", json!(series(&|s| s.produce_p50_ms.unwrap_or(0.0))));
    put("publishLatency99pct", json!(series(&|s| s.produce_p99_ms.unwrap_or(0.0))));
    put("endToEndLatency50pct", json!(series(&|s| s.e2e_p50_ms.unwrap_or(0.0))));
    put("endToEndLatency99pct", json!(series(&|s| s.e2e_p99_ms.unwrap_or(0.0))));
    put("endToEndLatencyMax", json!(series(&|s| s.e2e_max_ms.unwrap_or(0.0))));
    for (name, latency, unit) in [
        ("PublishLatency", &result.latency.produce, 1.0),
        ("PublishDelayLatency", &result.latency.generator_lateness, 1000.0),
        ("EndToEndLatency", &result.latency.end_to_end, 1.0),
    ] {
        for (field, value) in aggregated(latency) {
            put(&format!("aggregated{name}{field}"), json!(value * unit));
        }
        let quantiles: Map<String, Value> = latency
            .curve
            .iter()
            .map(|(percentile, ms)| (percentile.to_string(), json!(ms * unit)))
            .collect();
        put(&format!("aggregated{name}Quantiles"), Value::Object(quantiles));
    }
    Value::Object(out)
}

fn aggregated(latency: &LatencyFound) -> Vec<(&'static str, f64)> {
    let [p50, _, p95, p99, p99_9, p99_99] = latency.percentiles();
    let value = |found: Option<f64>| found.unwrap_or(latency.max_ms);
    vec![
        ("50pct", value(p50)),
        ("95pct", value(p95)),
        ("99pct", value(p99)),
        ("999pct", value(p99_9)),
        ("9999pct", value(p99_99)),
        ("Max", latency.max_ms),
    ]
}
