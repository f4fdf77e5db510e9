//! A log through its door, in the simulated twin: lookups, damage, budgets, the journal's price.
use model::record_batch::{BatchBuilder, stored_prefix};
use model::{
    Compression, LeaderEpoch, LogSettings, Offset, PartitionIndex, RecordBatch, Retention, TopicId,
    TopicPartition,
};
use runtime::budget::Budget;
use runtime::file::{File, OpenOptions};
use runtime::random::Random;
use runtime::simulated::{Disk, Simulation};
use runtime::{Io, Runtime, timer};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::tools::inspect::inspect;
use storage::{CompactionPlan, Journal, Log, LogDir, Read, StorageError, TailCache, replay};

const SETTINGS: LogSettings = LogSettings { segment_bytes: 400_000, segment_ms: i64::MAX };

fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic_id: TopicId([7; 16]), partition: PartitionIndex(number) }
}

fn batch(random: &mut Random) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    builder.begin(random.below(1_000_000) as i64);
    for _ in 0..=random.below(5) {
        let mut value = vec![0; random.below(3_000) as usize];
        random.fill(&mut value);
        builder.push(random.below(1_000_000) as i64, None, Some(&value), &[]);
    }
    builder.finish(Compression::None).to_vec()
}

/// A directory as a start finds it: journals replayed, logs not opened yet.
async fn start(cache: &Rc<TailCache>) -> (Rc<LogDir>, storage::Replay) {
    let data = Path::new("/d");
    runtime::fs::create_dir_all(&data.join("partitions")).unwrap();
    let found = replay(data).await.unwrap();
    let journal = Journal::new(data, 0, 1 << 20, true, found.start_of(0));
    (LogDir::new(data, true, cache, Some(journal), Arc::default()), found)
}

async fn reopened(home: &Rc<LogDir>, found: &storage::Replay) -> Result<Rc<Log>, StorageError> {
    let notes = found.partitions.get(&partition(0)).cloned().unwrap_or_default();
    let (log, _) = Log::open(home, partition(0), SETTINGS, &notes).await?;
    home.sync_recovered().await?;
    home.journal().unwrap().begin().await?;
    Ok(log)
}

async fn append(log: &Log, bytes: &[u8]) {
    let view = RecordBatch::validate_produced(bytes, 1 << 21).unwrap();
    log.append(view, log.log_end(), LeaderEpoch(1)).unwrap();
}

fn on_twin<T>(disk: &Disk, body: impl Future<Output = T>) -> T {
    let machine = Runtime::new(Io::Simulated(Simulation::new(disk.clone(), 1))).unwrap();
    machine.block_on(body).unwrap()
}

async fn read(log: &Log, offset: Offset, end: Offset) -> Result<Vec<u8>, StorageError> {
    let mut out = Vec::new();
    if log.read_cached(offset, 1, end, &mut out) == Read::Miss {
        log.read_disk(offset, 1, end, &mut out).await?;
    }
    Ok(out.iter().flat_map(|piece| piece.to_vec()).collect())
}

async fn filled(cache: &Rc<TailCache>, batches: u64) -> (Rc<Log>, Vec<i64>) {
    let (home, found) = start(cache).await;
    let log = reopened(&home, &found).await.unwrap();
    let (mut random, mut times) = (Random::new(3), Vec::new());
    for number in 0..batches {
        let mut builder = BatchBuilder::default();
        builder.begin(number as i64 * 100);
        for record in 0..3 {
            let mut value = vec![0; 1000];
            random.fill(&mut value);
            let time = number as i64 * 100 + record * 10;
            builder.push(time, None, Some(&value), &[]);
            times.push(time);
        }
        let codec = Compression::ALL[number as usize % 5];
        append(&log, builder.finish(codec)).await;
        if number % 7 == 0 {
            log.flush(number % 2 == 0).await.unwrap();
        }
    }
    while log.is_dirty(true) {
        log.flush(true).await.unwrap();
    }
    (log, times)
}

#[test]
fn offsets_and_times_are_found_exactly_across_segments_journaled_ones_too() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let (log, times) = filled(&TailCache::new(600_000), 500).await;
        let (end, unpacked) = (log.log_end(), Budget::new(usize::MAX));
        for (offset, &time) in times.iter().enumerate().step_by(13).chain([(1499, &times[1499])]) {
            for (asked, expected) in [(time, offset), (time - 1, offset), (time + 1, offset + 1)] {
                let found = log.find_timestamp(asked, end, &unpacked).await.unwrap();
                assert_eq!(
                    found.map(|f| f.offset.0 as usize),
                    (expected < times.len()).then_some(expected)
                );
            }
            let offset = Offset(offset as i64);
            let bytes = read(&log, offset, end).await.unwrap();
            let (batch, rest) = RecordBatch::split_first(&bytes).unwrap();
            assert!(rest.is_empty(), "one byte asked for: one whole batch comes");
            assert!(batch.base_offset() <= offset && offset <= batch.last_offset());
        }
        assert_eq!(log.find_timestamp(i64::MAX, end, &unpacked).await.unwrap(), None);
        assert_eq!(log.max_timestamp().await.unwrap(), *times.last().unwrap());
        // Deleting inside a batch: what is left is found, what is gone is not.
        log.delete_below(Offset(700)).await.unwrap();
        assert_eq!(
            log.find_timestamp(0, end, &Budget::new(usize::MAX)).await.unwrap().unwrap().offset,
            Offset(700)
        );
        assert_eq!(log.log_start(), Offset(700));
    });
}

/// Batches made by hand: (seed, epoch, offsets skipped before it). Returns how many a start takes.
fn taken(batches: &[(u64, i32, i64)]) -> usize {
    let disk = Disk::default();
    on_twin(&disk, async {
        let (mut bytes, mut offset, mut ends) = (Vec::new(), Offset::ZERO, vec![Offset::ZERO]);
        for (seed, epoch, skipped) in batches {
            let made = batch(&mut Random::new(*seed));
            let view = RecordBatch::validate_produced(&made, 1 << 20).unwrap();
            offset = offset.plus(*skipped);
            let prefix = stored_prefix(view, offset, LeaderEpoch(*epoch));
            bytes.extend_from_slice(&prefix);
            bytes.extend_from_slice(&made[prefix.len()..]);
            offset = offset.plus(i64::from(view.record_count()));
            ends.push(offset);
        }
        let (home, found) = start(&TailCache::new(0)).await;
        let dir = home.partition_path(partition(0));
        runtime::fs::create_dir_all(&dir).unwrap();
        runtime::fs::replace(&dir.join("00000000000000000000.log"), &bytes).await.unwrap();
        let log = reopened(&home, &found).await.unwrap();
        ends.iter().position(|end| *end == log.log_end()).expect("a batch's end")
    })
}

/// Any bytes in a segment: a start takes a beginning of them or none, and whatever it takes can be
/// read; inspect has words for the rest.
#[test]
fn any_segment_is_opened_without_panic() {
    let rounds = std::env::var("WEIR_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let mut random = Random::new(21);
    let mut taken = 0;
    for round in 0..rounds {
        let (mut bytes, mut offset) = (Vec::new(), Offset::ZERO);
        for seed in 0..4 {
            let made = batch(&mut Random::new(seed));
            let view = RecordBatch::validate_produced(&made, 1 << 20).unwrap();
            bytes.extend_from_slice(&stored_prefix(view, offset, LeaderEpoch(1)));
            bytes.extend_from_slice(&made[16..]);
            offset = offset.plus(i64::from(view.record_count()));
        }
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            // Headers are where counts and lengths are.
            let at = if random.one_in(2) { at % 61 } else { at };
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => random.fill(&mut bytes[at..]),
                2 => bytes[at] = 0xff,
                _ => bytes.truncate(at.max(1)),
            }
        }
        let disk = Disk::default();
        taken += on_twin(&disk, async {
            let (home, found) = start(&TailCache::new(0)).await;
            let dir = home.partition_path(partition(0));
            runtime::fs::create_dir_all(&dir).unwrap();
            let path = dir.join("00000000000000000000.log");
            runtime::fs::replace(&path, &bytes).await.unwrap();
            inspect(&path, true).await.unwrap();
            let log = reopened(&home, &found).await.unwrap();
            let end = log.log_end();
            assert!(end <= offset, "round {round}");
            for offset in 0..end.0 {
                assert!(!read(&log, Offset(offset), end).await.unwrap().is_empty());
            }
            end.0
        });
    }
    assert!(taken > rounds, "some of them begin well: {taken}");
}

#[test]
fn a_batch_counts_if_its_offset_follows_and_its_epoch_is_not_lower() {
    assert_eq!(taken(&[(1, 5, 0), (2, 5, 0), (3, 6, 0)]), 3);
    // What an earlier start left behind the end has a lower epoch than what precedes it.
    assert_eq!(taken(&[(1, 5, 0), (2, 5, 0), (3, 3, 0)]), 2);
    assert_eq!(taken(&[(1, 5, 0), (2, 5, 4), (3, 5, 0)]), 1);
}

/// Records that were only written, or only journaled, when the program died bring their epoch with them; it is
/// still known when the start that found them is long over.
#[test]
fn an_epoch_that_a_start_found_is_known_to_the_starts_after_it() {
    for durable in [false, true] {
        let disk = Disk::default();
        let one = batch(&mut Random::new(5));
        let grown = async |epoch: Option<i32>, closes: bool| {
            let (home, found) = start(&TailCache::new(600_000)).await;
            let log = reopened(&home, &found).await.unwrap();
            if let Some(epoch) = epoch {
                let view = RecordBatch::validate_produced(&one, 1 << 21).unwrap();
                log.append(view, log.log_end(), LeaderEpoch(epoch)).unwrap();
                log.flush(durable).await.unwrap();
            }
            if closes {
                log.close().await.unwrap();
                home.journal().unwrap().close().await.unwrap();
            }
            let last = Offset(log.log_end().0 - 1);
            (log.epoch_of(Offset(0)), log.epoch_of(last), last)
        };
        on_twin(&disk, grown(Some(1), true));
        disk.kill();
        let (.., last) = on_twin(&disk, grown(Some(2), false));
        for _ in 0..3 {
            disk.kill();
            let found = on_twin(&disk, grown(None, false));
            assert_eq!(found, (Some(LeaderEpoch(1)), Some(LeaderEpoch(2)), last), "{durable}");
        }
    }
}

#[test]
fn a_file_shorter_than_what_was_synced_is_refused_and_left_as_it_is() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let (log, _) = filled(&TailCache::new(600_000), 60).await;
        log.close().await.unwrap();
        log.home().journal().unwrap().close().await.unwrap();
    });
    disk.kill();
    let segment =
        Path::new("/d/partitions").join(partition(0).to_string()).join("00000000000000000000.log");
    on_twin(&disk, async {
        let options = OpenOptions { write: true, ..OpenOptions::default() };
        File::open(&segment, options).unwrap().set_len(20_000).unwrap();
    });
    for _ in 0..2 {
        on_twin(&disk, async {
            let (home, found) = start(&TailCache::new(0)).await;
            let notes = found.partitions.get(&partition(0)).cloned().unwrap_or_default();
            let refused = Log::open(&home, partition(0), SETTINGS, &notes).await.err();
            let refused = refused.expect("refused").to_string();
            assert!(refused.contains("shorter than what was synced"), "{refused}");
            let journal = home.journal().unwrap();
            journal.carry(partition(0), notes.carried(partition(0)));
            journal.begin().await.unwrap();
        });
        disk.kill();
        assert_eq!(disk.files().iter().find(|(path, _)| *path == segment).unwrap().1, 20_000);
    }
}

/// Every file of a directory is said in words, whole as it is, and damaged once a bit is flipped.
#[test]
fn inspect_tells_what_a_file_holds_and_what_is_wrong_with_it() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let (log, _) = filled(&TailCache::new(600_000), 200).await;
        log.close().await.unwrap();
        log.home().journal().unwrap().close().await.unwrap();
    });
    disk.kill();
    let name_of = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let look = |path: &Path| {
        on_twin(&disk, async { inspect(path, true).await.map(|found| (found.text, found.damage)) })
    };
    let mut kinds = std::collections::BTreeSet::new();
    for (path, len) in disk.files() {
        let name = name_of(&path);
        let (text, damage) = look(&path).unwrap();
        assert!(damage.is_empty(), "{name}: {damage:?}");
        let (word, at) = match name.rsplit('.').next().unwrap() {
            "log" => ("segment with base offset", len / 2),
            "idx" => ("index of", 30),
            "epochs" => ("epoch 1 from offset 0", 9),
            // The first frame, if the file has any.
            _ if text.contains("without frames") => continue,
            _ => ("journal ", 40),
        };
        assert!(text.contains(word), "{name}: {text}");
        disk.flip_bit(&path, at, 2);
        let told = look(&path)
            .is_ok_and(|(text, damage)| !damage.is_empty() || text.contains("without frames"));
        assert!(told, "{name}: the flipped bit is noticed");
        disk.flip_bit(&path, at, 2);
        kinds.insert(word);
    }
    assert_eq!(kinds.len(), 4, "{kinds:?}");
}

#[test]
fn old_records_go_by_age_and_by_size_and_the_newest_stay() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let (log, times) = filled(&TailCache::new(600_000), 500).await;
        let (end, now) = (log.log_end(), runtime::clock::unix_ms());
        let retain = |age_ms, bytes, now| log.retain(Retention { age_ms, bytes }, now, end);
        assert_eq!(retain(None, None, now).await.unwrap(), None);
        // Written just now: kept, however old the producers' timestamps look.
        assert_eq!(retain(Some(3_600_000), None, now).await.unwrap(), None);
        let kept = retain(None, Some(700_000), now).await.unwrap().expect("some go by size");
        assert!(log.size_bytes() >= 700_000 && log.size_bytes() < 1_200_000 && kept < end);
        assert_eq!(
            log.find_timestamp(0, end, &Budget::new(usize::MAX)).await.unwrap().unwrap().offset,
            log.log_start()
        );
        // An hour and a second later all of it is older than an hour, the active segment too.
        let later = now + 3_601_000 + times.last().unwrap();
        assert_eq!(retain(Some(3_600_000), None, later).await.unwrap(), Some(end));
        assert_eq!((log.log_start(), log.size_bytes()), (end, 0));
        append(&log, &batch(&mut Random::new(5))).await;
        log.flush(true).await.unwrap();
        assert!(!read(&log, end, log.log_end()).await.unwrap().is_empty());
    });
}

/// What is compacted lies in memory here, so nothing but the turns it gives holds a compaction up. On
/// the real ring: in the twin no time passes while it computes.
#[test]
fn compaction_gives_everything_else_its_turns() {
    let dir = runtime::fs::TemporaryDir::new(&std::env::temp_dir(), "weir-turns").unwrap();
    let path = dir.path().to_owned();
    let body = async move {
        runtime::fs::create_dir_all(&path.join("partitions")).unwrap();
        let home = LogDir::new(&path, true, &TailCache::new(64 << 20), None, Arc::default());
        let log = Log::create(&home, partition(0), SETTINGS).unwrap();
        let mut random = Random::new(3);
        for _ in 0..500 {
            append(&log, &batch(&mut random)).await;
        }
        while log.is_dirty(true) {
            log.flush(true).await.unwrap();
        }
        // How many slices were computed since someone else last had a turn, and the most of all.
        let (since, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (taken, ended) = (Rc::clone(&since), Rc::clone(&done));
        runtime::spawn(async move {
            while !ended.get() {
                timer::next_turn().await;
                taken.set(0);
            }
        });
        let (slices, longest) = (Cell::new(0), Cell::new(0));
        let rest = || {
            slices.set(slices.get() + 1);
            since.set(since.get() + 1);
            longest.set(longest.get().max(since.get()));
            Duration::ZERO
        };
        let plan = CompactionPlan {
            below: log.log_end(),
            now_ms: 0,
            min_lag_ms: 0,
            delete_retention_ms: 0,
            map_bytes: 1 << 20,
            last_batches: BTreeMap::new(),
            aborted: Vec::new(),
            stops: &|| false,
            rest: &rest,
        };
        let read = log.size_bytes();
        let compacted = log.compact(&plan, async |_: &[Offset]| Ok(())).await.unwrap();
        done.set(true);
        assert!(compacted.bytes_before > read / 2, "{} of {read}", compacted.bytes_before);
        assert!(slices.get() > 20 && longest.get() <= 2, "{} of {}", longest.get(), slices.get());
    };
    Runtime::new(Io::Uring).unwrap().block_on(body).unwrap();
}

#[test]
fn a_failing_disk_takes_the_directory_offline() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let (log, _) = filled(&TailCache::new(600_000), 60).await;
        disk.set_failing(Some(5));
        append(&log, &batch(&mut Random::new(1))).await;
        let error = log.flush(true).await.unwrap_err();
        assert!(error.to_string().contains("failed"), "{error}");
        assert!(log.is_offline() && log.home().health().is_offline());
        disk.set_failing(None);
        // Never retried: the kernel may have dropped what it could not write.
        assert!(matches!(log.flush(true).await, Err(StorageError::Offline)));
    });
}

/// Rot in what was known durable: the log refuses, names the place and changes nothing, until an
/// operator decides. Rot behind it, or none: it opens.
#[test]
fn rot_is_refused_and_a_torn_end_is_cut() {
    let path = Path::new("/d/partitions").join(partition(0).to_string());
    let segment = path.join("00000000000000000000.log");
    let disk = Disk::default();
    let end = on_twin(&disk, async {
        let (home, found) = start(&TailCache::new(600_000)).await;
        let log = reopened(&home, &found).await.unwrap();
        for number in 0..20 {
            append(&log, &batch(&mut Random::new(number))).await;
            log.flush(true).await.unwrap();
        }
        timer::sleep(Duration::from_millis(100)).await;
        log.log_end()
    });
    disk.kill();
    // The bytes are in the journal and not yet in the segment: rot there names the journal.
    let journal = Path::new("/d/journal/0.1");
    disk.flip_bit(journal, 9000, 3);
    for _ in 0..2 {
        on_twin(&disk, async {
            let (home, found) = start(&TailCache::new(0)).await;
            let error = reopened(&home, &found).await.err().expect("refused");
            assert!(error.to_string().contains("/d/journal/0.1: damaged at byte"), "{error}");
        });
        disk.kill();
    }
    disk.flip_bit(journal, 9000, 3);
    on_twin(&disk, async {
        let (home, found) = start(&TailCache::new(0)).await;
        let log = reopened(&home, &found).await.unwrap();
        assert_eq!(log.log_end(), end);
        append(&log, &batch(&mut Random::new(99))).await;
        // Written only: not promised to survive a torn write.
        log.flush(false).await.unwrap();
    });
    disk.kill();
    let len = disk.files().iter().find(|(path, _)| *path == segment).unwrap().1;
    let last = (0..len).rev().find(|at| disk.byte_at(&segment, *at) != Some(0)).unwrap();
    disk.flip_bit(&segment, last, 0);
    on_twin(&disk, async {
        let (home, found) = start(&TailCache::new(0)).await;
        let log = reopened(&home, &found).await.unwrap();
        assert_eq!(log.log_end(), end, "the torn end is cut, nothing else");
    });
    disk.kill();
    disk.flip_bit(&segment, last / 2, 1);
    on_twin(&disk, async {
        let (home, found) = start(&TailCache::new(0)).await;
        // The start does not read what it knows to be synced; whoever reads it is told.
        let log = reopened(&home, &found).await.unwrap();
        let mut told = 0;
        for offset in 0..end.0 {
            match read(&log, Offset(offset), end).await {
                Err(StorageError::Corrupt { path, .. }) => {
                    assert_eq!(path, segment);
                    told += 1;
                }
                other => assert!(!other.unwrap().is_empty()),
            }
        }
        assert!(told > 0 && told < end.0, "{told}");
    });
}

#[test]
fn a_log_that_ends_before_what_is_known_durable_is_refused() {
    let disk = Disk::default();
    let end = on_twin(&disk, async { filled(&TailCache::new(600_000), 30).await.0.log_end() });
    disk.kill();
    on_twin(&disk, async {
        let (home, found) = start(&TailCache::new(0)).await;
        let mut notes = found.partitions[&partition(0)].clone();
        notes.missed_below = Some(end.plus(1));
        let open = Log::open(&home, partition(0), SETTINGS, &notes);
        let refused = open.await.err().expect("refused");
        assert!(matches!(refused, StorageError::Corrupt { .. }), "{refused}");
        // It stays refused, because the next journal says the same.
        let carried = notes.carried(partition(0));
        assert!(carried.iter().any(|known| known.entry.at.offset == end.plus(1)));
        notes.missed_below = Some(end);
        assert_eq!(
            Log::open(&home, partition(0), SETTINGS, &notes).await.unwrap().0.log_end(),
            end
        );
    });
}

#[test]
fn the_tail_cache_keeps_its_budget_however_long_it_runs() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let cache = TailCache::new(8 * 128 * 1024);
        let (home, _) = start(&cache).await;
        let mut logs = Vec::new();
        for number in 0..3 {
            logs.push(Log::create(&home, partition(number), SETTINGS).unwrap());
        }
        home.journal().unwrap().begin().await.unwrap();
        let mut random = Random::new(11);
        for _ in 0..3_000 {
            let log = &logs[random.below(3) as usize];
            append(log, &batch(&mut random)).await;
            while log.is_dirty(true) {
                log.flush(true).await.unwrap();
            }
        }
        // One append may need several slabs at once; nothing else goes beyond the budget.
        assert!(cache.bytes_made() <= 16 * 128 * 1024, "{} bytes", cache.bytes_made());
        drop(logs);
        timer::sleep(Duration::from_secs(1)).await;
        assert!(cache.bytes_made() <= 8 * 128 * 1024, "{} bytes", cache.bytes_made());
    });
}

/// Many partitions that sync a little share one write.
#[test]
fn a_thousand_small_syncs_are_a_few_frames() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let (home, _) = start(&TailCache::new(64 << 20)).await;
        let logs: Vec<_> =
            (0..1024).map(|n| Log::create(&home, partition(n), SETTINGS).unwrap()).collect();
        home.journal().unwrap().begin().await.unwrap();
        let journal = home.journal().unwrap();
        for round in 0..3 {
            let before = journal.frames();
            let left = Rc::new(Cell::new(logs.len()));
            let done = Rc::new(runtime::notify::Notify::default());
            for log in &logs {
                append(log, &batch(&mut Random::new(round))).await;
                let (log, left, done) = (Rc::clone(log), Rc::clone(&left), Rc::clone(&done));
                runtime::spawn(async move {
                    let flushed = log.flush(true).await.unwrap();
                    assert_eq!(flushed.durable, log.log_end());
                    left.set(left.get() - 1);
                    done.notify();
                });
            }
            done.until(|| (left.get() == 0).then_some(())).await;
            let frames = journal.frames() - before;
            // The first round also makes each log's file of epochs, at its own pace.
            assert!(round == 0 || frames <= 64, "{frames} frames for 1024 syncs");
        }
    });
}
