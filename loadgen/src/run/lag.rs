//! Consumer lag, sampled: end offsets against the consumers' positions, and against what they have
//! committed. The two are kept apart: the first is how far work is behind, the second what would be
//! done again.

use crate::judge::result::{GroupLag, PartitionFound, PlaceLag};
use crate::many::statistics::theil_sen;
use crate::options::args::Args;
use crate::work::consumer::group_id;
use crate::work::layout::Layout;
use crate::work::progress::Progress;
use client::{Connection, committed_offsets, end_offsets, find_coordinator, within};
use runtime::clock::{self, Nanos};
use runtime::timer;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Partitions of all groups up to which every sample is written to `lag.csv`.
const PLACES_WRITTEN_MAX: usize = 2_000;
/// Partitions whose lag is drawn.
const PLACES_SHOWN: usize = 5;
/// A broker that does not answer a sample by then is asked anew.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a new topic's leaders may take to know that they are its leaders.
const FIRST_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// One look at all groups.
pub(crate) struct LagSample {
    pub(crate) at: Nanos,
    /// Per group, records behind by position and by commit.
    pub(crate) behind: Vec<i64>,
    pub(crate) committed: Vec<Option<i64>>,
    /// Per group, the largest of a partition, and of its time.
    max_partition: Vec<i64>,
    max_time_ms: Vec<f64>,
    /// Per group and slot, where they are few enough to be kept.
    places: Vec<i64>,
}

/// Looks at lag again and again.
pub(crate) struct LagSampler {
    args: Arc<Args>,
    layout: Arc<Layout>,
    servers: String,
    run: u64,
    progress: Arc<Progress>,
    connections: BTreeMap<String, Connection>,
    coordinators: BTreeMap<usize, String>,
    pub(crate) samples: Vec<LagSample>,
    pub(crate) errors: u64,
    /// Largest lag of each partition, over groups.
    max_of_slot: Vec<i64>,
    csv: Option<(PathBuf, String)>,
    start: Nanos,
}

impl LagSampler {
    pub(crate) fn new(
        args: &Arc<Args>,
        layout: &Arc<Layout>,
        servers: &str,
        run: u64,
        progress: &Arc<Progress>,
        csv: PathBuf,
        start: Nanos,
    ) -> Self {
        let written = layout.slots() * args.groups as usize <= PLACES_WRITTEN_MAX;
        let head = "at_s,group,topic,partition,end_offset,position,committed\n".to_owned();
        Self {
            args: Arc::clone(args),
            layout: Arc::clone(layout),
            servers: servers.to_owned(),
            run,
            progress: Arc::clone(progress),
            connections: BTreeMap::new(),
            coordinators: BTreeMap::new(),
            samples: Vec::new(),
            errors: 0,
            max_of_slot: vec![0; layout.slots()],
            csv: written.then_some((csv, head)),
            start,
        }
    }

    async fn connection(&mut self, address: &str) -> Result<&mut Connection, String> {
        if !self.connections.contains_key(address) {
            let connection = Connection::open(address, &self.args.client_id).await?;
            self.connections.insert(address.to_owned(), connection);
        }
        Ok(self.connections.get_mut(address).expect("inserted above"))
    }

    /// Where every partition ends.
    pub(crate) async fn ends(&mut self) -> Result<Vec<i64>, String> {
        let mut asks: BTreeMap<(String, usize), Vec<i32>> = BTreeMap::new();
        let layout = Arc::clone(&self.layout);
        for topic in 0..layout.topics.len() {
            let (first, partitions) = layout.span_of(topic);
            for partition in 0..partitions {
                let leader = layout.leaders[first + partition].clone();
                asks.entry((leader, topic)).or_default().push(partition as i32);
            }
        }
        let mut ends = vec![-1; layout.slots()];
        for ((leader, topic), partitions) in asks {
            let asked = async {
                let connection = self.connection(&leader).await?;
                end_offsets(connection, &layout.topics[topic], &partitions).await
            };
            let found = within(ANSWER_WITHIN, asked).await;
            let found = found.unwrap_or_else(|| Err("no answer in time".to_owned()));
            if found.is_err() {
                self.connections.remove(&leader);
            }
            for (partition, end) in found? {
                ends[layout.span_of(topic).0 + partition as usize] = end;
            }
        }
        match ends.iter().position(|end| *end == -1) {
            None => Ok(ends),
            Some(slot) => {
                let (topic, partition) = layout.place(slot);
                Err(format!("the end of partition {partition} of {topic} is not known"))
            }
        }
    }

    /// As `ends`, of topics that may be new: leaders that were named may not know of it yet.
    ///
    /// # Errors
    /// Still not known after 10 s.
    pub(crate) async fn first_ends(&mut self) -> Result<Vec<i64>, String> {
        let until = clock::now() + FIRST_ENDS_WITHIN;
        loop {
            match self.ends().await {
                Err(_) if clock::now() < until => {
                    timer::sleep(Duration::from_millis(100)).await;
                }
                done => return done,
            }
        }
    }

    /// What a group has committed, per slot; -1: nothing.
    async fn committed(&mut self, group: usize) -> Result<Vec<i64>, String> {
        let id = group_id(self.run, group);
        if !self.coordinators.contains_key(&group) {
            let server = self.servers.split(',').next().unwrap_or_default().trim().to_owned();
            let first = self.connection(&server).await?;
            let found = find_coordinator(first, &id).await?;
            let address = found.map_err(|error| error.name())?;
            self.coordinators.insert(group, address);
        }
        let address = self.coordinators[&group].clone();
        let topics = committed_offsets(self.connection(&address).await?, &id, None).await?;
        let topics = topics.map_err(|error| error.name())?;
        let mut offsets = vec![-1; self.layout.slots()];
        for topic in &topics {
            for partition in &topic.partitions {
                if let Some(slot) = self.layout.slot_of(&topic.name, partition.partition_index) {
                    offsets[slot] = partition.committed_offset;
                }
            }
        }
        Ok(offsets)
    }

    /// What each group has committed; `None`: it did not say.
    async fn all_committed(&mut self, groups: usize) -> Vec<Option<Vec<i64>>> {
        let mut committed = Vec::with_capacity(groups);
        for group in 0..groups {
            let found = within(ANSWER_WITHIN, self.committed(group)).await;
            match found.unwrap_or_else(|| Err("no answer in time".to_owned())) {
                Ok(offsets) => committed.push(Some(offsets)),
                Err(_) => {
                    // Asked anew next time, wherever it is then.
                    if let Some(address) = self.coordinators.remove(&group) {
                        self.connections.remove(&address);
                    }
                    self.errors += 1;
                    committed.push(None);
                }
            }
        }
        committed
    }

    /// Looks once. Commits first, then positions, then ends: what moves meanwhile makes lag larger,
    /// never negative.
    pub(crate) async fn sample(&mut self) -> Result<(), String> {
        let groups = if self.args.consumer_count() == 0 { 0 } else { self.args.groups as usize };
        if groups == 0 {
            return Ok(());
        }
        let slots = self.layout.slots();
        let committed = self.all_committed(groups).await;
        let places = &self.progress.places;
        let position = |place: usize| places[place].position.load(Relaxed);
        let positions: Vec<i64> = (0..groups * slots).map(position).collect();
        let planned = |place: usize| places[place].last_planned.load(Relaxed);
        let planned: Vec<u64> = (0..groups * slots).map(planned).collect();
        let ends = match self.ends().await {
            Ok(ends) => ends,
            Err(why) => {
                self.errors += 1;
                return Err(why);
            }
        };
        let at = clock::now();
        let mut sample = LagSample {
            at,
            behind: Vec::new(),
            committed: Vec::new(),
            max_partition: Vec::new(),
            max_time_ms: Vec::new(),
            places: Vec::new(),
        };
        for (group, kept_of_group) in committed.iter().enumerate() {
            let (mut sum, mut sum_committed, mut max, mut max_ms) = (0, 0, 0, 0.0f64);
            for slot in 0..slots {
                let place = group * slots + slot;
                let behind = (ends[slot] - positions[place]).max(0);
                sum += behind;
                max = max.max(behind);
                if behind > 0 && planned[place] > 0 {
                    max_ms = max_ms.max(at.since(Nanos(planned[place])) as f64 / 1e6);
                }
                self.max_of_slot[slot] = self.max_of_slot[slot].max(behind);
                let kept = kept_of_group.as_ref().map(|offsets| offsets[slot]);
                // Where nothing is committed yet the group began at its start.
                let from = self.progress.starts.get(slot).copied().unwrap_or(0);
                sum_committed +=
                    kept.map_or(0, |kept| (ends[slot] - if kept < 0 { from } else { kept }).max(0));
                if let Some((_, csv)) = &mut self.csv {
                    sample.places.push(behind);
                    let (topic, partition) = self.layout.place(slot);
                    let at_s = (at.0 as f64 - self.start.0 as f64) / 1e9;
                    let kept =
                        kept.filter(|kept| *kept >= 0).map_or(String::new(), |k| k.to_string());
                    let (end, position) = (ends[slot], positions[place]);
                    let _ = writeln!(
                        csv,
                        "{at_s:.3},{group},{topic},{partition},{end},{position},{kept}"
                    );
                }
            }
            sample.behind.push(sum);
            sample.committed.push(kept_of_group.as_ref().map(|_| sum_committed));
            sample.max_partition.push(max);
            sample.max_time_ms.push(max_ms);
        }
        self.samples.push(sample);
        Ok(())
    }

    /// Whether every group has read to where the partitions end now. Asks; errors say no.
    pub(crate) async fn is_drained(&mut self) -> Result<bool, String> {
        let groups = self.args.groups as usize;
        let ends = self.ends().await?;
        let read = |group: usize, slot: usize| {
            let place = &self.progress.places[group * ends.len() + slot];
            place.position.load(Relaxed) >= ends[slot]
        };
        Ok((0..groups).all(|group| (0..ends.len()).all(|slot| read(group, slot))))
    }

    /// Each group's lag between two times.
    pub(crate) fn groups(&self, from: Nanos, to: Nanos) -> Vec<GroupLag> {
        let groups = if self.args.consumer_count() == 0 { 0 } else { self.args.groups as usize };
        let inside: Vec<&LagSample> =
            self.samples.iter().filter(|sample| sample.at >= from && sample.at <= to).collect();
        let of = |group: usize| {
            let points: Vec<(f64, f64)> = inside
                .iter()
                .map(|s| (s.at.since(from) as f64 / 1e9, s.behind[group] as f64))
                .collect();
            let (slope, trend) = trend(&points);
            let max = points.iter().map(|(_, lag)| *lag).fold(0.0, f64::max);
            let mean = points.iter().map(|(_, lag)| lag).sum::<f64>() / points.len().max(1) as f64;
            GroupLag {
                group,
                max_records: max as i64,
                mean_records: mean,
                max_partition_records: inside
                    .iter()
                    .map(|s| s.max_partition[group])
                    .max()
                    .unwrap_or(0),
                max_committed_records: inside
                    .iter()
                    .filter_map(|s| s.committed[group])
                    .max()
                    .unwrap_or(0),
                max_time_ms: inside.iter().map(|s| s.max_time_ms[group]).fold(0.0, f64::max),
                slope_per_s: slope,
                trend: trend.to_owned(),
            }
        };
        (0..groups).map(of).collect()
    }

    /// The partitions that were furthest behind at any time.
    pub(crate) fn worst(&self) -> Vec<PlaceLag> {
        let slots = self.layout.slots();
        let kept: Vec<&LagSample> = self.samples.iter().filter(|s| !s.places.is_empty()).collect();
        let places = kept.first().map_or(0, |sample| sample.places.len());
        let largest = |place: usize| kept.iter().map(|s| s.places[place]).max().unwrap_or(0);
        let mut ranked: Vec<(i64, usize)> = (0..places)
            .map(|place| (largest(place), place))
            .filter(|(most, _)| *most > 0)
            .collect();
        ranked.sort_by_key(|(most, place)| (-most, *place));
        let of = |&(_, place): &(i64, usize)| {
            let (topic, partition) = self.layout.place(place % slots);
            let point = |s: &&LagSample| {
                ((s.at.0 as f64 - self.start.0 as f64) / 1e9, s.places[place] as f64)
            };
            PlaceLag {
                group: place / slots,
                topic: topic.to_owned(),
                partition,
                points: kept.iter().map(point).collect(),
            }
        };
        ranked.iter().take(PLACES_SHOWN).map(of).collect()
    }

    pub(crate) fn last(&self) -> Option<&LagSample> {
        self.samples.last()
    }

    pub(crate) fn partitions(&self, acked: &[u64]) -> Vec<PartitionFound> {
        let of = |slot: usize| {
            let (topic, partition) = self.layout.place(slot);
            PartitionFound {
                topic: topic.to_owned(),
                partition,
                leader: self.layout.leaders[slot].clone(),
                acknowledged_records: acked.get(slot).copied().unwrap_or(0),
                max_lag_records: self.max_of_slot[slot],
            }
        };
        (0..self.layout.slots()).map(of).collect()
    }

    /// Writes what was sampled.
    pub(crate) fn write(&self) -> std::io::Result<()> {
        match &self.csv {
            Some((path, csv)) => std::fs::write(path, csv),
            None => Ok(()),
        }
    }
}

/// How fast lag grew, with its 95 % interval, and in a word.
fn trend(points: &[(f64, f64)]) -> (Option<(f64, f64, f64)>, &'static str) {
    let slope = theil_sen(points);
    let mean = points.iter().map(|(_, lag)| lag).sum::<f64>() / points.len().max(1) as f64;
    let span = points.last().map_or(0.0, |last| last.0 - points[0].0);
    let word = match slope {
        None => "unknown",
        // Growth is claimed where even its lower bound makes up more than the mean.
        Some((_, low, _)) if low * span > mean => "growing",
        Some((_, _, high)) if -high * span > mean => "draining",
        Some(_) => "stable",
    };
    (slope, word)
}

impl LagSample {
    pub(crate) fn max_time_ms(&self) -> f64 {
        self.max_time_ms.iter().copied().fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::random::Random;

    #[test]
    fn lag_that_grows_is_told_from_lag_that_varies() {
        let mut random = Random::new(5);
        let mut points = |from: f64, per_s: f64| -> Vec<(f64, f64)> {
            let mut noise = || random.below(400) as f64;
            (0..20)
                .map(|at| (f64::from(at), (from + per_s * f64::from(at) + noise()).max(0.0)))
                .collect()
        };
        assert_eq!(trend(&points(0.0, 1000.0)).1, "growing");
        assert_eq!(trend(&points(20_000.0, -1000.0)).1, "draining");
        for _ in 0..200 {
            assert_eq!(trend(&points(1000.0, 0.0)).1, "stable");
        }
        assert_eq!(trend(&points(0.0, 1000.0)[..5]).1, "unknown");
    }
}
