//! WriteTxnMarkers 1: how an operator ends a transaction that hangs in a partition (KIP-664).

use crate::api::rooms::Partitions;
use crate::network::answer::read;
use crate::network::request::Request;
use model::{ErrorCode, Marker, Producer, ProducerId};
use wire::WireError;
use wire::messages::{
    TopicErrors, WritableTxnMarkerResult, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};

pub(crate) async fn handle(
    partitions: Partitions<'_>,
    request: &Request,
) -> Result<WriteTxnMarkersResponse, WireError> {
    let asked = read::<WriteTxnMarkersRequest>(request)?;
    let image = partitions.image();
    let mut markers = Vec::new();
    for asked in asked.markers {
        let marker = Marker {
            producer: Producer { id: ProducerId(asked.producer_id), epoch: asked.producer_epoch },
            commit: asked.transaction_result,
            coordinator_epoch: asked.coordinator_epoch,
        };
        let mut topics = Vec::new();
        for topic in asked.topics {
            let known = |index: &i32| image.topic(&topic.name)?.partition(*index);
            let found: Vec<_> = topic.partition_indexes.iter().filter_map(known).collect();
            let mut results = partitions.mark(marker, found).await.into_iter();
            let one = |index: &i32| {
                let result = match known(index) {
                    Some(_) => results.next().expect("a result for each that is known"),
                    None => Err(ErrorCode::UnknownTopicOrPartition),
                };
                (*index, result.err().unwrap_or(ErrorCode::None))
            };
            topics.push(TopicErrors::new(&topic.name, topic.partition_indexes.iter().map(one)));
        }
        markers.push(WritableTxnMarkerResult { producer_id: asked.producer_id, topics });
    }
    Ok(WriteTxnMarkersResponse { markers })
}
