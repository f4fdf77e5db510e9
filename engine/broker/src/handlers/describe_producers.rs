//! DescribeProducers 0 (KIP-664). Producer ids are not given out yet: no partition knows any.

use crate::dispatch::{Outcome, read, respond};
use crate::shard::{Request, Shard};
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    DescribeProducersPartition, DescribeProducersRequest, DescribeProducersResponse,
    DescribeProducersTopic, DescribeProducersTopicResponse,
};

pub(crate) fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<DescribeProducersRequest>(request)?;
    let image = shard.image();
    let topic = |topic: DescribeProducersTopic| {
        let one = |index: &i32| {
            let known = image.has(&topic.name, *index);
            let error = ErrorCode::UnknownTopicOrPartition;
            DescribeProducersPartition {
                partition_index: *index,
                error_code: if known { 0 } else { error.code() },
                error_message: (!known).then(|| error.meaning().to_owned()),
                ..Default::default()
            }
        };
        let partitions = topic.partition_indexes.iter().map(one).collect();
        DescribeProducersTopicResponse { name: topic.name, partitions }
    };
    let topics = asked.topics.into_iter().map(topic).collect();
    Ok(respond(shard, request, &DescribeProducersResponse { topics, ..Default::default() }))
}
