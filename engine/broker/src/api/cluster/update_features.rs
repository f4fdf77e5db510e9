//! UpdateFeatures 0-2 (KIP-584): v1 the type of change, v2 no features in the answer. Levels are the program's: none is
//! changed.

use super::api_versions::features;
use crate::network::answer::{AnswerSize, read};
use crate::network::request::Request;
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    FeatureUpdate, UpdateFeaturesRequest, UpdateFeaturesResponse, UpdatedFeature,
};

fn refusal(update: &FeatureUpdate) -> Option<String> {
    let known = features().into_iter().find(|feature| feature.name == update.feature);
    let Some(feature) = known else {
        return Some("no broker here knows this feature".to_owned());
    };
    (feature.level != update.max_version_level).then(|| {
        format!("this program has {} at level {} and no other", feature.name, feature.level)
    })
}

pub(crate) async fn handle(
    request: &Request,
    size: &mut AnswerSize,
) -> Result<UpdateFeaturesResponse, WireError> {
    let asked = read::<UpdateFeaturesRequest>(request)?;
    // One that is refused refuses all, as in Kafka.
    if let Some(why) = asked.feature_updates.iter().find_map(refusal) {
        let response = UpdateFeaturesResponse {
            error_code: ErrorCode::InvalidUpdateVersion.code(),
            error_message: Some(why),
            ..Default::default()
        };
        return Ok(response);
    }
    let mut results = Vec::new();
    for update in asked.feature_updates {
        size.add(20 + update.feature.len()).await?;
        results.push(UpdatedFeature { feature: update.feature, ..Default::default() });
    }
    Ok(UpdateFeaturesResponse { results, ..Default::default() })
}
