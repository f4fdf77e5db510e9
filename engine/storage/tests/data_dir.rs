//! A data directory across versions of the format: read, brought up, or refused by number.

use model::BrokerId;
use model::crc32c;
use runtime::simulated::{Disk, Fault, Simulation, Verb};
use runtime::{Io, Runtime};
use std::path::Path;
use storage::directory::data_dir::{DataDir, FORMAT_VERSION};
use storage::{KnownJournal, StorageError};

const VERSION_AT: usize = 8;

fn copies() -> [std::path::PathBuf; 2] {
    [0, 1].map(|copy| Path::new("/d").join(format!("superblock.{copy}")))
}

/// Makes these copies look as if a program of that version had written them.
async fn set_version(copies: &[std::path::PathBuf], version: u32) {
    for copy in copies {
        let mut bytes = runtime::fs::read(copy).await.unwrap();
        if version < 4 {
            // Those before did not know journals, and were no longer than they had to be.
            bytes.truncate(65);
        }
        bytes[VERSION_AT..VERSION_AT + 4].copy_from_slice(&version.to_be_bytes());
        let end = bytes.len() - 4;
        let crc = crc32c::checksum(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_be_bytes());
        runtime::fs::replace(copy, &bytes).await.unwrap();
    }
}

fn on_a_disk(body: impl Future<Output = ()> + 'static) {
    let simulation = Simulation::new(Disk::default(), 1);
    Runtime::new(Io::Simulated(simulation)).unwrap().block_on(body).unwrap();
}

#[test]
fn an_older_directory_is_read_and_both_copies_are_brought_up() {
    for version in 2..FORMAT_VERSION {
        on_a_disk(async move {
            for _ in 0..2 {
                let dir = DataDir::open(Path::new("/d"), BrokerId(1)).await.unwrap();
                dir.close_clean().await.unwrap();
            }
            let mut dir = DataDir::open(Path::new("/d"), BrokerId(1)).await.unwrap();
            let journals = vec![KnownJournal { shard: 0, id: 7, sequence: 1 }];
            dir.note_journals(journals.clone()).await.unwrap();
            dir.close_clean().await.unwrap();
            set_version(&copies(), version).await;
            let opened = DataDir::open(Path::new("/d"), BrokerId(1)).await.unwrap();
            assert!(opened.was_clean() && opened.superblock().incarnation == 4);
            // Those before version 4 named no journals.
            let named = if version < 4 { Vec::new() } else { journals };
            assert_eq!(opened.superblock().journals.journals, named, "of version {version}");
            for copy in copies() {
                let bytes = runtime::fs::read(&copy).await.unwrap();
                assert_eq!(bytes[VERSION_AT..VERSION_AT + 4], FORMAT_VERSION.to_be_bytes());
            }
        });
    }
}

#[test]
fn another_version_is_refused_by_its_number_even_beside_a_copy_that_could_be_read() {
    on_a_disk(async {
        for _ in 0..2 {
            DataDir::open(Path::new("/d"), BrokerId(1)).await.unwrap().close_clean().await.unwrap();
        }
        for copy in copies() {
            set_version(std::slice::from_ref(&copy), FORMAT_VERSION + 1).await;
            let Err(StorageError::Unusable(why)) =
                DataDir::open(Path::new("/d"), BrokerId(1)).await
            else {
                panic!("a newer directory was opened");
            };
            assert!(why.contains(&format!("format version {}", FORMAT_VERSION + 1)), "{why}");
            set_version(&[copy], FORMAT_VERSION).await;
        }
        set_version(&copies(), 1).await;
        assert!(matches!(
            DataDir::open(Path::new("/d"), BrokerId(1)).await,
            Err(StorageError::Unusable(_))
        ));
    });
}

#[test]
fn a_directory_without_superblocks_that_holds_something_is_not_taken_for_new() {
    on_a_disk(async {
        let first =
            DataDir::open(Path::new("/d"), BrokerId(1)).await.unwrap().superblock().incarnation;
        for copy in copies() {
            runtime::fs::remove_file(&copy).unwrap();
            // One copy is enough; and the other may have known of one start more.
            let next =
                DataDir::open(Path::new("/d"), BrokerId(1)).await.unwrap().superblock().incarnation;
            assert!(next > first + 1, "{next}");
        }
        copies().iter().for_each(|copy| runtime::fs::remove_file(copy).unwrap());
        let id = model::TopicPartition {
            topic_id: model::TopicId([1; 16]),
            partition: model::PartitionIndex(0),
        };
        let partition = Path::new("/d/partitions").join(id.to_string());
        runtime::fs::create_dir_all(&partition).unwrap();
        let refused = DataDir::open(Path::new("/d"), BrokerId(1)).await.err().expect("refused");
        assert!(matches!(refused, StorageError::Corrupt { .. }), "{refused}");
        runtime::fs::remove_dir(&partition).unwrap();
        assert!(DataDir::open(Path::new("/d"), BrokerId(1)).await.unwrap().is_new());
    });
}

/// What the disk did not take is not taken for noted: the journals are noted when it is tried again.
#[test]
fn journals_whose_note_failed_are_noted_when_it_is_tried_again() {
    for verb in [Verb::Write, Verb::Sync] {
        let disk = Disk::default();
        let simulation = Simulation::new(disk.clone(), 1);
        let body = async {
            let mut dir = DataDir::open(Path::new("/d"), BrokerId(1)).await.unwrap();
            let journals = vec![KnownJournal { shard: 0, id: 7, sequence: 1 }];
            let path = "superblock".to_owned();
            disk.add_fault(Fault { verb, path, after: 0, times: 1, errno: 12 });
            assert!(dir.note_journals(journals.clone()).await.is_err(), "{verb:?}");
            assert_eq!(disk.clear_faults(), 1);
            dir.note_journals(journals.clone()).await.unwrap();
            drop(dir);
            let (_lock, superblock) = DataDir::hold(Path::new("/d")).await.unwrap();
            assert_eq!(superblock.journals.journals, journals, "{verb:?}");
        };
        Runtime::new(Io::Simulated(simulation)).unwrap().block_on(body).unwrap();
    }
}
