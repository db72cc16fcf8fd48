-- The request wrk sends again and again, and its report as one line of JSON (bench/generators.py reads it).

wrk.method = "POST"
wrk.body = os.getenv("BENCH_BODY")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY")

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '{"answered": %d, "bad_answers": %d, "socket_errors": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
      summary.requests,
      errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50) / 1000,
      latency:percentile(99) / 1000
   ))
end
