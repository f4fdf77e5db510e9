//! Where a record's time goes within the broker: the histograms that Weir keeps of its stages, read from what
//! it tells Prometheus at both ends of the measured time.

use crate::judge::result::{LatencyFound, StageFound};
use crate::work::histogram::Latency;
use runtime::buffer::SharedBytes;
use runtime::receive_buffer::{ReceiveBuffer, ReceivePool};
use runtime::socket::Socket;
use runtime::{clock, timer};
use std::net::ToSocketAddrs;
use std::time::Duration;

const TOLD_WITHIN: Duration = Duration::from_secs(3);
const METRICS_BYTES_MAX: usize = 16 << 20;
const BUCKET: &str = "weir_stage_seconds_bucket{stage=\"";

/// Counts of each stage so far, by the upper end of their bucket in seconds; each includes those below.
#[derive(Debug, PartialEq)]
pub(crate) struct StageCounts {
    stages: Vec<(String, Vec<(f64, u64)>)>,
}

impl StageCounts {
    /// Asks HOST:PORT for /metrics.
    pub(crate) async fn read(address: &str) -> Result<Self, String> {
        let cannot = |why: &str| format!("http://{address}/metrics: {why}");
        let until = Some(clock::now() + TOLD_WITHIN);
        let text = timer::before(until, get(address)).await;
        let text = text.ok_or_else(|| cannot("no answer"))?.map_err(|why| cannot(&why))?;
        Self::of(&text).ok_or_else(|| cannot("no stages of Weir in it"))
    }

    /// Reads the exposition format; `None` if no stage is in it.
    fn of(text: &str) -> Option<Self> {
        let mut stages: Vec<(String, Vec<(f64, u64)>)> = Vec::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(BUCKET) else { continue };
            let (stage, rest) = rest.split_once("\",le=\"")?;
            let (end, count) = rest.split_once("\"} ")?;
            let bucket = (end.parse().ok()?, count.parse().ok()?);
            match stages.last_mut().filter(|(name, _)| name == stage) {
                Some((_, buckets)) => buckets.push(bucket),
                None => stages.push((stage.to_owned(), vec![bucket])),
            }
        }
        (!stages.is_empty()).then_some(Self { stages })
    }

    /// What happened since `before`; `None` if that was another process.
    pub(crate) fn since(&self, before: &Self) -> Option<Vec<StageFound>> {
        let mut found = Vec::new();
        if self.stages.len() != before.stages.len() {
            return None;
        }
        for ((stage, after), (_, before)) in self.stages.iter().zip(&before.stages) {
            let mut latency = Latency::default();
            let (mut below, mut last_end_s) = (0, 0.0);
            for ((end_s, after), (_, before)) in after.iter().zip(before) {
                let count = after.checked_sub(*before)?;
                // The last bucket has no end: what is in it took at least as long as the one before.
                last_end_s = if end_s.is_finite() { *end_s } else { last_end_s };
                match count.checked_sub(below)? {
                    0 => {}
                    some => latency.record((last_end_s * 1e9) as u64, some),
                }
                below = count;
            }
            found.push(StageFound { stage: stage.clone(), latency: LatencyFound::of(&latency) });
        }
        Some(found)
    }
}

/// The body of GET /metrics.
async fn get(address: &str) -> Result<String, String> {
    let resolved = address.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut last = "no address".to_owned();
    for socket_address in resolved {
        match Socket::connect(socket_address).await {
            Ok(socket) => return exchange(&socket, address).await,
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

async fn exchange(socket: &Socket, host: &str) -> Result<String, String> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut pieces = vec![SharedBytes::copy_of(request.as_bytes())];
    socket.send(&mut pieces).await.map_err(|error| error.to_string())?;
    let mut pool = ReceivePool::new(256 * 1024, 1);
    let mut buffer = ReceiveBuffer::new(&mut pool);
    loop {
        // As far as the chunk is concerned, all of it is one frame.
        buffer.make_room(buffer.bytes().len() + 64 * 1024, &mut pool);
        match socket.receive(&mut buffer, 0).await.map_err(|error| error.to_string())? {
            0 => break,
            _ if buffer.bytes().len() > METRICS_BYTES_MAX => return Err("too much".to_owned()),
            _ => {}
        }
    }
    let answer = String::from_utf8_lossy(buffer.bytes()).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(head.lines().next().unwrap_or_default().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sync: [u64; 3], send: [u64; 3]) -> StageCounts {
        let mut text = "# TYPE weir_stage_seconds histogram\nother 1\n".to_owned();
        for (stage, counts) in [("sync", sync), ("send", send)] {
            for (end, count) in ["0.001", "0.002", "+Inf"].iter().zip(counts) {
                text += &format!("{BUCKET}{stage}\",le=\"{end}\"}} {count}\n");
            }
            text += &format!("weir_stage_seconds_sum{{stage=\"{stage}\"}} 7.5\n");
        }
        StageCounts::of(&text).unwrap()
    }

    #[test]
    fn what_came_between_is_told_by_stage_at_the_upper_end_of_its_bucket() {
        let (before, after) = (told([100, 100, 100], [0, 0, 5]), told([350, 600, 600], [0, 0, 35]));
        let found = after.since(&before).unwrap();
        let names: Vec<_> = found.iter().map(|stage| stage.stage.as_str()).collect();
        assert_eq!(names, ["sync", "send"]);
        let sync = &found[0].latency;
        let near = |ms: Option<f64>, expected: f64| (ms.unwrap() / expected - 1.0).abs() < 0.002;
        assert_eq!((sync.count, sync.max_ms < 2.01), (500, true));
        assert!(near(sync.p50_ms, 1.0) && near(sync.p90_ms, 2.0), "{sync:?}");
        assert_eq!(sync.p99_ms, None, "fewer than ten are beyond");
        assert!(found[1].latency.count == 30 && near(found[1].latency.p50_ms, 2.0));
    }

    #[test]
    fn another_process_or_another_program_is_no_answer() {
        assert!(told([1, 1, 1], [0, 0, 0]).since(&told([2, 2, 2], [0, 0, 0])).is_none());
        assert_eq!(StageCounts::of("process_cpu_seconds_total 3\n"), None);
        assert_eq!(StageCounts::of("weir_stage_seconds_bucket{stage=\"x\",le=\"y\n"), None);
    }
}
