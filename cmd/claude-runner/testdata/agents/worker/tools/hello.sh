#!/bin/sh
echo "hello from the template"
