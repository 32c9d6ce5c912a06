//! `teller.v1.Discovery`.

use std::time::Instant;

use teller_domain::X402Version;
use teller_store::Listing;
use tonic::{Request, Response, Status};

use super::{request, status};
use crate::answer::{ApiError, Outcome};
use crate::api::Api;
use crate::discovery::{Filters, Listed, Reader};
use crate::meters::{Endpoint, Transport};
use crate::proto;
use crate::proto::discovery_server::Discovery;

pub(super) struct DiscoveryDoor(pub(super) Api);

impl DiscoveryDoor {
    fn finish<T>(
        &self,
        found: Result<T, ApiError>,
        started: Instant,
    ) -> Result<Response<T>, Status> {
        let outcome = Outcome::of_reading(&found);
        self.0
            .answered(Endpoint::Discovery, Transport::Grpc, outcome, started);
        found.map(Response::new).map_err(|error| status(&error))
    }

    async fn page(&self, asked: proto::ListResourcesRequest) -> Result<Listed, ApiError> {
        let filters = Filters {
            limit: given(asked.limit),
            offset: given(asked.offset),
            ..filters(asked.filter)?
        };
        Reader::admit(&self.0)?.list(&filters).await
    }

    async fn found(&self, asked: proto::SearchResourcesRequest) -> Result<Listed, ApiError> {
        let filters = Filters {
            limit: given(asked.limit),
            cursor: asked.cursor,
            query: asked.query,
            ..filters(asked.filter)?
        };
        Reader::admit(&self.0)?.search(&filters).await
    }
}

/// What REST has as a text; 0 is what it is where nothing is said.
fn given(number: u32) -> String {
    match number {
        0 => String::new(),
        number => number.to_string(),
    }
}

fn filters(asked: Option<proto::ResourceFilter>) -> Result<Filters, ApiError> {
    let asked = asked.unwrap_or_default();
    let scheme = proto::Scheme::try_from(asked.scheme)
        .map_err(|_| ApiError::BadRequest("scheme is no scheme".into()))?;
    let scheme = request::scheme(scheme).map_or("", |scheme| scheme.as_str());
    Ok(Filters {
        kind: asked.r#type,
        pay_to: asked.pay_to,
        scheme: scheme.to_owned(),
        network: asked.network,
        extensions: asked.extensions.join(","),
        ..Filters::default()
    })
}

fn resource(listing: Listing) -> proto::DiscoveredResource {
    let version = match listing.version {
        X402Version::V1 => proto::X402Version::V1,
        X402Version::V2 => proto::X402Version::V2,
    };
    proto::DiscoveredResource {
        resource: Some(proto::Resource {
            url: listing.resource,
            description: listing.description.unwrap_or_default(),
            mime_type: listing.mime_type.unwrap_or_default(),
            service_name: listing.service_name.unwrap_or_default(),
            tags: listing.tags,
            icon_url: listing.icon_url.unwrap_or_default(),
        }),
        r#type: listing.kind,
        x402_version: version.into(),
        accepts_json: listing.accepts,
        last_paid_at_ms: listing.paid_at.0,
        extensions_json: listing.extensions.unwrap_or_default(),
    }
}

#[tonic::async_trait]
impl Discovery for DiscoveryDoor {
    async fn list(
        &self,
        request: Request<proto::ListResourcesRequest>,
    ) -> Result<Response<proto::ListResourcesResponse>, Status> {
        let started = Instant::now();
        let page = self.page(request.into_inner()).await;
        let response = page.map(|found| proto::ListResourcesResponse {
            total: found.page.total,
            resources: found.page.listings.into_iter().map(resource).collect(),
        });
        self.finish(response, started)
    }

    async fn search(
        &self,
        request: Request<proto::SearchResourcesRequest>,
    ) -> Result<Response<proto::SearchResourcesResponse>, Status> {
        let started = Instant::now();
        let found = self.found(request.into_inner()).await;
        let response = found.map(|found| proto::SearchResourcesResponse {
            next_cursor: found.next().map(given).unwrap_or_default(),
            resources: found.page.listings.into_iter().map(resource).collect(),
        });
        self.finish(response, started)
    }
}
