package main

import (
	"github.com/aperturerobotics/protobuf-go-lite/compiler/protogen"
)

func generateServices(plugin *protogen.Plugin, f *protogen.File) {}
