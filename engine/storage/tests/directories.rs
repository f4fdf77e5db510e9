//! What a start makes of its data directories, in the twin: catalogs that are behind, partitions that nobody knows.

use model::{PartitionIndex, TopicId, TopicPartition};
use runtime::fs;
use runtime::simulated::{Disk, Simulation};
use runtime::{Io, Runtime};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use storage::catalog::{Catalog, CatalogTopic};
use storage::data_dirs::{Place, find};

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
        drop(find(&paths, 1).await.unwrap());
        let topic = CatalogTopic {
            id: TopicId([1; 16]),
            name: "t".to_owned(),
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
        let found = find(&paths, 1).await.unwrap();
        let is_there = |path: &Path| fs::list(path).is_ok();
        assert!(is_there(&grown) && is_there(&unknown), "records are kept");
        assert!(!is_there(&unused) && !is_there(&never) && !is_there(&deleted));
        assert_eq!(found.catalog.topics[0].partitions, 2, "the catalog was behind");
        let places: Vec<_> = found.places.into_iter().collect();
        assert_eq!(places, [(id(1, 0), Place::In(0)), (id(1, 1), Place::In(1))]);
        let told = found.warnings.join("\n");
        assert!(told.contains(&TopicId([2; 16]).to_string()), "{told}");
        assert!(found.catalog.deleted.is_empty(), "nothing of it is left anywhere");
        // What is in two places is in neither.
        drop(found.dirs);
        make("/b", id(1, 0), true).await;
        let found = find(&paths, 1).await.unwrap();
        assert!(matches!(found.places[&id(1, 0)], Place::InSeveral(_)));
    });
}

#[test]
fn a_directory_that_is_away_keeps_its_deleted_topics_from_being_forgotten() {
    let disk = Disk::default();
    on_twin(&disk, async {
        let paths = [PathBuf::from("/a"), PathBuf::from("/b")];
        drop(find(&paths, 1).await.unwrap());
        let mut catalog = Catalog::load(&[&paths[0]]).await.unwrap();
        catalog.generation += 1;
        catalog.deleted.push(TopicId([3; 16]));
        assert!(catalog.store(&[&paths[0]]).await.unwrap().is_empty());
        let deleted = make("/b", id(3, 0), true).await;
        let alone = find(&paths[..1], 1).await.unwrap();
        assert_eq!(alone.catalog.deleted, [TopicId([3; 16])]);
        assert!(!alone.is_complete());
        drop(alone);
        find(&paths, 1).await.unwrap();
        assert!(fs::list(&deleted).is_err());
    });
}
