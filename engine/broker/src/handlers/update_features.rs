//! UpdateFeatures 0-2 (KIP-584): v1 the type of change, v2 one answer for all. Levels are the program's: none is changed.

use super::api_versions::features;
use crate::dispatch::{AnswerSize, Outcome, read, respond};
use crate::shard::{Request, Shard};
use model::ErrorCode;
use wire::WireError;
use wire::messages::{
    FeatureUpdate, UpdateFeaturesRequest, UpdateFeaturesResponse, UpdatedFeature,
};

/// From here on a refusal is of the whole request.
const ONE_ANSWER_SINCE: i16 = 2;

fn refusal(update: &FeatureUpdate) -> Option<String> {
    let known = features().into_iter().find(|feature| feature.name == update.feature);
    let Some(feature) = known else {
        return Some("no broker here knows this feature".to_owned());
    };
    (feature.level != update.max_version_level).then(|| {
        format!("this program has {} at level {} and no other", feature.name, feature.level)
    })
}

pub(crate) async fn handle(shard: &Shard, request: &Request) -> Result<Outcome, WireError> {
    let asked = read::<UpdateFeaturesRequest>(request)?;
    let refused = ErrorCode::InvalidUpdateVersion.code();
    let (mut response, mut size) = (UpdateFeaturesResponse::default(), AnswerSize::new(shard));
    for update in &asked.feature_updates {
        let why = refusal(update);
        if request.version >= ONE_ANSWER_SINCE {
            if response.error_code == 0 && why.is_some() {
                (response.error_code, response.error_message) = (refused, why);
            }
            continue;
        }
        size.add(20 + update.feature.len() + why.as_ref().map_or(0, String::len)).await?;
        response.results.push(UpdatedFeature {
            feature: update.feature.clone(),
            error_code: if why.is_some() { refused } else { 0 },
            error_message: why,
        });
    }
    Ok(respond(shard, request, &response))
}
