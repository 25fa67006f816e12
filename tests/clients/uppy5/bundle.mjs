import AwsS3 from "@uppy/aws-s3";
import Uppy from "@uppy/core";
import GoldenRetriever from "@uppy/golden-retriever";

Object.assign(window, { AwsS3, GoldenRetriever, Uppy });
