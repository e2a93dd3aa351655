//! The daemon's parts: conversion of documents into policy.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod convert;
