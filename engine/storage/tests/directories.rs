//! What a start makes of its data directories, in the twin: catalogs that are behind, partitions that nobody knows.

use model::record_batch::BatchBuilder;
use model::{
    BrokerId, Compression, LeaderEpoch, LogSettings, Offset, PartitionIndex, RecordBatch, Topic,
    TopicId, TopicName, TopicPartition,
};
use runtime::simulated::{Disk, Fault, Simulation, Verb};
use runtime::{Io, Runtime, fs};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use storage::directory::catalog::Catalog;
use storage::directory::data_dirs::{Place, find};
use storage::directory::log_manager::{LogManagerConfig, SharedDir, begin_journals};
use storage::{LogManager, TailCache};

fn on_twin<T>(disk: &Disk, body: impl Future<Output = T>) -> T {
    let machine = Runtime::new(Io::Simulated(Simulation::new(disk.clone(), 1))).unwrap();
    machine.block_on(body).unwrap()
}

fn id(topic: u8, partition: i32) -> TopicPartition {
    TopicPartition { topic_id: TopicId([topic; 16]), partition: PartitionIndex(partition) }
}

async fn make(dir: &str, id: TopicPartition, holds: bool) -> PathBuf {
    let path = Path::new(dir).join("partitions").join(id.to_string());
    fs::create_dir_all(&path).unwrap();
    if holds {
        fs::replace(&path.join("00000000000000000000.log"), &[1; 4096]).await.unwrap();
    }
    path
}

#[test]
fn what_no_catalog_knows_is_kept_and_told_and_what_holds_records_is_known_again() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let paths = [PathBuf::from("/a"), PathBuf::from("/b")];
        drop(find(&paths, BrokerId(1)).await.unwrap());
        let topic = Topic {
            id: TopicId([1; 16]),
            name: TopicName::new("t").unwrap(),
            partitions: 1,
            settings: BTreeMap::new(),
        };
        let mut catalog = Catalog::load(&[&paths[0]]).await.unwrap();
        catalog.generation += 1;
        catalog.topics.push(topic);
        catalog.deleted.push(TopicId([3; 16]));
        assert!(catalog.store(&[&paths[0]]).await.unwrap().is_empty());
        make("/a", id(1, 0), true).await;
        let grown = make("/b", id(1, 1), true).await;
        let unused = make("/b", id(1, 5), false).await;
        let unknown = make("/a", id(2, 0), true).await;
        let never = make("/a", id(2, 1), false).await;
        let deleted = make("/b", id(3, 0), true).await;
        let found = find(&paths, BrokerId(1)).await.unwrap();
        let is_there = |path: &Path| fs::list(path).is_ok();
        assert!(is_there(&grown) && is_there(&unknown), "records are kept");
        assert!(!is_there(&unused) && !is_there(&never) && !is_there(&deleted));
        assert_eq!(found.catalog.topics[0].partitions, 2, "the catalog was behind");
        let places: Vec<_> = found.places.into_iter().collect();
        assert_eq!(places, [(id(1, 0), Place::In(0)), (id(1, 1), Place::In(1))]);
        let told = found.warnings.join("\n");
        assert!(told.contains(&TopicId([2; 16]).to_string()), "{told}");
        assert_eq!(found.catalog.deleted.len(), 1, "another copy may still have it");
        // What is in two places is in neither.
        drop(found.dirs);
        make("/b", id(1, 0), true).await;
        let found = find(&paths, BrokerId(1)).await.unwrap();
        assert!(matches!(found.places[&id(1, 0)], Place::InSeveral(_)));
        assert!(found.catalog.deleted.is_empty(), "nothing of it is left anywhere");
    });
}

#[test]
fn a_directory_that_is_away_keeps_its_deleted_topics_from_being_forgotten() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let paths = [PathBuf::from("/a"), PathBuf::from("/b")];
        drop(find(&paths, BrokerId(1)).await.unwrap());
        let mut catalog = Catalog::load(&[&paths[0]]).await.unwrap();
        catalog.generation += 1;
        catalog.deleted.push(TopicId([3; 16]));
        assert!(catalog.store(&[&paths[0]]).await.unwrap().is_empty());
        let deleted = make("/b", id(3, 0), true).await;
        let unused = make("/a", id(9, 0), false).await;
        let alone = find(&paths[..1], BrokerId(1)).await.unwrap();
        assert_eq!(alone.catalog.deleted, [TopicId([3; 16])]);
        assert!(fs::list(&unused).is_ok(), "the catalog that is away may know its topic");
        assert!(!alone.is_complete());
        drop(alone);
        find(&paths, BrokerId(1)).await.unwrap();
        assert!(fs::list(&deleted).is_err() && fs::list(&unused).is_err());
    });
}

/// What a start puts in place and cannot make durable stays in the journal, which is not begun anew.
#[test]
fn a_directory_that_fails_while_logs_are_opened_keeps_its_journal() {
    (0..8).for_each(a_start_that_cannot_sync_keeps_the_journal);
}

fn a_start_that_cannot_sync_keeps_the_journal(seed: u64) {
    let disk = Disk::default();
    let life = async |fails: bool| {
        let mut found = find(&[PathBuf::from("/a")], BrokerId(1)).await.unwrap();
        if found.catalog.topics.is_empty() {
            let (name, settings) = (TopicName::new("t").unwrap(), BTreeMap::new());
            let (id, partitions) = (TopicId([1; 16]), 1);
            found.catalog.topics.push(Topic { id, name, partitions, settings });
            found.catalog.generation += 1;
            assert!(found.catalog.store(&[Path::new("/a")]).await.unwrap().is_empty());
            make("/a", id_of_t(), false).await;
            fs::sync_dir(Path::new("/a/partitions")).await.unwrap();
            found.places.insert(id_of_t(), Place::In(0));
        }
        let (dirs, recovery) = found.split();
        let shared: Vec<SharedDir> = dirs
            .iter()
            .map(|(dir, reserve)| SharedDir {
                path: dir.path().to_owned(),
                health: Arc::default(),
                reserve: Arc::clone(reserve),
            })
            .collect();
        let mut dirs: Vec<_> = dirs.into_iter().map(|(dir, _)| dir).collect();
        let start = dirs[0].superblock().incarnation;
        let config = LogManagerConfig {
            shard: 0,
            journal_bytes: 3 << 20,
            direct_io: true,
            open_files: 10,
            start,
        };
        let cache = TailCache::new(1 << 20);
        let manager = LogManager::new(&shared, &recovery.replays, &cache, &config);
        if fails {
            let (verb, path, errno) = (Verb::Sync, "/a".to_owned(), 5);
            disk.add_fault(Fault { verb, path, after: 0, times: 1, errno });
        }
        let opened = manager.open(vec![(id_of_t(), LogSettings::default())], &recovery).await;
        let on_shard = async |_, step| manager.step(&step, &[]).await;
        let on_failure = |_: usize, error: &storage::StorageError| panic!("{error}");
        begin_journals(&mut dirs, 1, on_shard, on_failure).await;
        assert_eq!(shared[0].health.is_offline(), fails);
        let log = Rc::clone(&opened[0].log);
        if !fails && log.log_end() == Offset::ZERO {
            let mut builder = BatchBuilder::default();
            builder.begin(1);
            builder.push(1, None, Some(b"journaled"), &[]);
            let bytes = builder.finish(Compression::None).to_vec();
            let view = RecordBatch::validate_produced(&bytes, 1 << 20).unwrap();
            log.append(view, Offset::ZERO, LeaderEpoch(1)).unwrap();
            log.flush(true).await.unwrap();
            // As long as another directory waits for space this is tried again: what runs goes on as it is.
            let on_failure = |_: usize, error: &storage::StorageError| panic!("{error}");
            begin_journals(&mut dirs, 1, on_shard, on_failure).await;
        }
        let end = log.log_end();
        drop((opened, log));
        end
    };
    assert_eq!(on_twin(&disk, life(false)), Offset(1));
    disk.kill();
    on_twin(&disk, life(true));
    disk.clear_faults();
    disk.power_cut(seed);
    assert_eq!(on_twin(&disk, life(false)), Offset(1), "what was acknowledged is there");
}

fn id_of_t() -> TopicPartition {
    id(1, 0)
}
