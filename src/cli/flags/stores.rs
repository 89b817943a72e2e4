//! Flags of the object stores: how one is reached.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{NonEmptyStringValueParser, TypedValueParser};

use super::super::parse_values::choice;
use crate::store::Addressing;

/// How an object store is reached. Credentials come from the environment and standard files only.
#[derive(Debug, Args)]
#[command(next_help_heading = "Object stores")]
pub struct StoreFlags {
    /// OSS endpoint, for example oss-cn-hangzhou-internal.aliyuncs.com [also: in --to,
    /// OSS_ENDPOINT]
    #[arg(long, value_name = "HOST", env = "WORDTIDE_OSS_ENDPOINT",
        value_parser = NonEmptyStringValueParser::new())]
    pub oss_endpoint: Option<String>,

    /// OSS region, for example cn-hangzhou, if the endpoint's name does not contain it
    #[arg(long, value_name = "REGION", env = "WORDTIDE_OSS_REGION",
        value_parser = NonEmptyStringValueParser::new())]
    pub oss_region: Option<String>,

    /// S3 endpoint [default: that of AWS]
    #[arg(long, value_name = "URL", env = "WORDTIDE_S3_ENDPOINT",
        value_parser = NonEmptyStringValueParser::new())]
    pub s3_endpoint: Option<String>,

    /// S3 region [also: AWS_REGION]
    #[arg(long, value_name = "REGION", env = "WORDTIDE_S3_REGION",
        value_parser = NonEmptyStringValueParser::new())]
    pub s3_region: Option<String>,

    /// Where S3 requests name the bucket: in the host's name or in the path
    #[arg(long, value_name = "STYLE", default_value = "auto", value_parser = addressing(),
        env = "WORDTIDE_S3_ADDRESSING")]
    pub s3_addressing: Addressing,

    /// PEM file of certificates to trust, in addition to the system's
    #[arg(long, value_name = "FILE", env = "WORDTIDE_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// Allow plain http to other hosts
    #[arg(long, env = "WORDTIDE_ALLOW_HTTP")]
    pub allow_http: bool,

    /// Start although another job has committed under this prefix a short while ago
    #[arg(long, env = "WORDTIDE_TAKE_OVER")]
    pub take_over: bool,
}

fn addressing() -> impl TypedValueParser<Value = Addressing> {
    choice(&[
        ("auto", Addressing::Auto),
        ("virtual-hosted", Addressing::VirtualHosted),
        ("path", Addressing::Path),
    ])
}
