//! The workers of one machine: threads that produce and consume.

use crate::ending::Failure;
use crate::load::payload::Payloads;
use crate::load::schedule::Schedule;
use crate::options::args::Args;
use crate::work::consumer::{Consumer, ConsumerOutcome};
use crate::work::layout::Layout;
use crate::work::producer::{Producer, ProducerOutcome};
use crate::work::progress::{Interval, Progress, Window};
use runtime::clock::Nanos;
use runtime::{Io, Runtime, process, thread, timer};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

type Work<T> = JoinHandle<Result<Vec<T>, String>>;

/// What every worker knows.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) args: Arc<Args>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) run: u64,
    pub(crate) seed: u64,
    pub(crate) servers: String,
    pub(crate) starts: Arc<Vec<i64>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) intervals: Sender<Interval>,
    /// Which of how many machines this is: it takes every so-manieth worker.
    pub(crate) share: (usize, usize),
    /// Added to this machine's clock to get the run's.
    pub(crate) clock_offset: i64,
}

/// The threads of a run on this machine.
pub(crate) struct Crew {
    job: Job,
    consumers: Vec<Work<ConsumerOutcome>>,
    producers: Vec<Work<ProducerOutcome>>,
}

fn cannot_spawn(error: std::io::Error) -> Failure {
    Failure::unreachable(format!("cannot start a thread: {error}"))
}

/// Splits this machine's part of `count` workers over at most half of its cores.
fn over_threads(count: usize, share: (usize, usize)) -> Vec<Vec<usize>> {
    let mine: Vec<usize> = (0..count).filter(|worker| worker % share.1 == share.0).collect();
    let threads = mine.len().min((thread::cpus().len() / 2).max(1));
    let mut split = vec![Vec::new(); threads];
    mine.into_iter().enumerate().for_each(|(at, worker)| split[at % threads].push(worker));
    split
}

impl Crew {
    /// Starts the consumers, so that they see the first record.
    pub(crate) fn start(job: Job) -> Result<Self, Failure> {
        let count = job.args.consumer_count();
        let mut consumers = Vec::new();
        for workers in over_threads(job.args.member_count(), job.share) {
            let job = job.clone();
            let spawned = thread::spawn("consumer", None, move || {
                process::precise_timers();
                let runtime = Runtime::new(Io::Uring).map_err(|error| error.to_string())?;
                let make = |worker: usize| Consumer {
                    args: Arc::clone(&job.args),
                    layout: Arc::clone(&job.layout),
                    run: job.run,
                    bootstrap: job.servers.split(',').next().unwrap_or_default().trim().to_owned(),
                    group: worker / count,
                    number: worker % count,
                    clock_offset: job.clock_offset,
                    starts: Arc::clone(&job.starts),
                    progress: Arc::clone(&job.progress),
                    intervals: job.intervals.clone(),
                };
                let consumers: Vec<_> = workers.into_iter().map(make).collect();
                runtime
                    .block_on(all(consumers.into_iter().map(Consumer::run)))
                    .expect("only the twin stops")
            });
            consumers.push(spawned.map_err(cannot_spawn)?);
        }
        Ok(Self { job, consumers, producers: Vec::new() })
    }

    /// Starts the producers: the first record is planned at `start`.
    pub(crate) fn produce(
        &mut self,
        payloads: &Arc<Payloads>,
        start: Nanos,
        window: Window,
    ) -> Result<(), Failure> {
        let count = self.job.args.producer_count();
        let plan = self.job.args.plan();
        for workers in over_threads(count, self.job.share) {
            let (job, plan, payloads) = (self.job.clone(), plan.clone(), Arc::clone(payloads));
            let spawned = thread::spawn("producer", None, move || {
                process::precise_timers();
                let runtime = Runtime::new(Io::Uring).map_err(|error| error.to_string())?;
                let make = |number: usize| Producer {
                    schedule: Schedule::new(
                        plan.clone(),
                        job.args.arrivals,
                        start,
                        job.seed,
                        count,
                        number,
                    ),
                    args: Arc::clone(&job.args),
                    layout: Arc::clone(&job.layout),
                    bootstrap: job.servers.clone(),
                    run: job.run,
                    seed: job.seed,
                    number,
                    window,
                    clock_offset: job.clock_offset,
                    payloads: Arc::clone(&payloads),
                    progress: Arc::clone(&job.progress),
                    intervals: job.intervals.clone(),
                };
                let producers: Vec<_> = workers.into_iter().map(make).collect();
                runtime
                    .block_on(async {
                        // Nothing is sent before the schedule starts, also at rate max.
                        timer::sleep_until(start).await;
                        all(producers.into_iter().map(Producer::run)).await
                    })
                    .expect("only the twin stops")
            });
            self.producers.push(spawned.map_err(cannot_spawn)?);
        }
        Ok(())
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.job.progress
    }

    pub(crate) fn consumers_gone(&self) -> bool {
        self.consumers.iter().any(JoinHandle::is_finished)
    }

    pub(crate) fn is_producing(&self) -> bool {
        !self.producers.iter().all(JoinHandle::is_finished)
    }

    /// What the producers found; waits for them.
    pub(crate) async fn produced(&mut self) -> Result<Vec<ProducerOutcome>, Failure> {
        gather(std::mem::take(&mut self.producers), "producer").await
    }

    /// What the consumers found; they must have been told to stop.
    pub(crate) async fn consumed(&mut self) -> Result<Vec<ConsumerOutcome>, Failure> {
        gather(std::mem::take(&mut self.consumers), "consumer").await
    }
}

async fn gather<T>(threads: Vec<Work<T>>, what: &str) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    for thread in threads {
        // A fetch may be parked at the broker: its wait ends it.
        while !thread.is_finished() {
            timer::sleep(Duration::from_millis(5)).await;
        }
        let joined = thread.join();
        let outcomes =
            joined.map_err(|_| Failure::unreachable(format!("a {what} thread panicked")))?;
        all.extend(outcomes.map_err(Failure::unreachable)?);
    }
    Ok(all)
}

/// Runs futures side by side on this thread; their outputs in order, or the first error.
async fn all<T: 'static, F: Future<Output = Result<T, String>>>(
    futures: impl Iterator<Item = F>,
) -> Result<Vec<T>, String> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(result) => *output = Some(result),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().map(|(_, output)| output.expect("all are done")).collect()
}
