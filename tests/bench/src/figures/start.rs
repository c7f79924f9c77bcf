//! The binary, how fast it starts, and what it holds before there is anything to do.

use std::time::Duration;

use serde_json::json;

use super::World;
use crate::Failed;
use crate::cluster::connect;
use crate::operator::Operator;
use crate::report::{Goal, now, say};
use crate::stats::{float, millis, percentile};

impl World {
    pub(super) async fn start(&self) -> Result<(), Failed> {
        let bytes = std::fs::metadata(&self.setup.binary)?.len();
        self.figure("binary", float(bytes) / 1e6, "MB", None, Goal::AtMost(12.0), json!({}));
        if let Some(image) = &self.image {
            let bytes = std::fs::metadata(image)?.len();
            self.figure(
                "image",
                float(bytes) / 1e6,
                "MB",
                None,
                Goal::AtMost(15.0),
                json!({"as": "OCI archive"}),
            );
        }
        let (mut starts, mut trips) = (Vec::new(), Vec::new());
        say(&format!("{} cold starts", self.size.starts));
        for _ in 0..self.size.starts {
            trips.push(self.round_trips().await?);
            let operator = Operator::start(&self.setup).await?;
            starts.push(operator.ready_after);
            operator.quiet(None).await?;
            if starts.len() == self.size.starts {
                self.resident(&operator, 0, None, Some(10.0))?;
            }
            operator.stop().await?;
        }
        let [start, trips] = [&starts, &trips].map(|times| percentile(times, 0.5).unwrap_or(Duration::ZERO));
        let parameters = json!({"starts": self.size.starts, "until_ready_s": start.as_secs_f64(), "round_trips_s": trips.as_secs_f64()});
        let beside = start.saturating_sub(trips).as_secs_f64();
        self.figure(
            "cold start to ready beside the API round trips",
            beside,
            "s",
            None,
            Goal::AtMost(0.5),
            parameters,
        );
        say(&format!("a start takes {:.0} ms, its round trips {:.0} ms of it", millis(start), millis(trips)));
        Ok(())
    }

    /// What a start asks of the API server before it is ready: one connection and one answer.
    async fn round_trips(&self) -> Result<Duration, Failed> {
        let began = now();
        let client = connect().await?;
        let api: kube::Api<graphtoken::api::GraphToken> =
            kube::Api::namespaced(client, crate::cluster::NAMESPACE);
        api.list_metadata(&kube::api::ListParams::default().limit(1)).await?;
        Ok(began.elapsed())
    }
}
