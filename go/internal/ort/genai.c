// SPDX-License-Identifier: Apache-2.0

#include "genai.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *result;

static struct {
  const char *(*OgaResultGetError)(result);
  void (*OgaDestroyResult)(result);
  void (*OgaSetTelemetryEnabled)(bool enabled);
  result (*OgaCreateTokenizerFromPath)(const char *directory, void **tokenizer);
  void (*OgaDestroyTokenizer)(void *tokenizer);
  result (*OgaTokenizerApplyChatTemplate)(void *tokenizer, const char *template, const char *messages, const char *tools, bool add_generation_prompt,
                                          const char **text);
  void (*OgaDestroyString)(const char *text);
  result (*OgaCreateSequences)(void **sequences);
  void (*OgaDestroySequences)(void *sequences);
  result (*OgaTokenizerEncode)(void *tokenizer, const char *text, void *sequences);
  size_t (*OgaSequencesCount)(void *sequences);
  size_t (*OgaSequencesGetSequenceCount)(void *sequences, size_t index);
  const int32_t *(*OgaSequencesGetSequenceData)(void *sequences, size_t index);
  result (*OgaCreateTokenizerStream)(void *tokenizer, void **stream);
  void (*OgaDestroyTokenizerStream)(void *stream);
  result (*OgaTokenizerStreamDecode)(void *stream, int32_t token, const char **text);
} genai;

// The text of a failed result, which it releases; NULL where nothing failed.
static char *failure(result r) {
  if (!r) return NULL;
  const char *why = genai.OgaResultGetError(r);
  char *text = strdup(why ? why : "unknown");
  genai.OgaDestroyResult(r);
  return text ? text : strdup("out of memory");
}

char *concord_genai_open(const char *path) {
  // Before the library loads: official builds send telemetry otherwise.
  setenv("ORT_TELEMETRY_DISABLED", "1", 1);
  setenv("ORT_GENAI_TELEMETRY_DISABLED", "1", 1);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return strdup(dlerror());
#define PLACE(name)                                                     \
  do {                                                                  \
    *(void **)&genai.name = dlsym(library, #name);                      \
    if (!genai.name) return strdup("the library has no function " #name); \
  } while (0)
  PLACE(OgaResultGetError);
  PLACE(OgaDestroyResult);
  PLACE(OgaSetTelemetryEnabled);
  PLACE(OgaCreateTokenizerFromPath);
  PLACE(OgaDestroyTokenizer);
  PLACE(OgaTokenizerApplyChatTemplate);
  PLACE(OgaDestroyString);
  PLACE(OgaCreateSequences);
  PLACE(OgaDestroySequences);
  PLACE(OgaTokenizerEncode);
  PLACE(OgaSequencesCount);
  PLACE(OgaSequencesGetSequenceCount);
  PLACE(OgaSequencesGetSequenceData);
  PLACE(OgaCreateTokenizerStream);
  PLACE(OgaDestroyTokenizerStream);
  PLACE(OgaTokenizerStreamDecode);
#undef PLACE
  genai.OgaSetTelemetryEnabled(false);
  return NULL;
}

char *concord_genai_tokenizer(const char *directory, void **tokenizer) {
  return failure(genai.OgaCreateTokenizerFromPath(directory, tokenizer));
}

void concord_genai_tokenizer_free(void *tokenizer) { genai.OgaDestroyTokenizer(tokenizer); }

char *concord_genai_template(void *tokenizer, const char *messages, const char **text) {
  return failure(genai.OgaTokenizerApplyChatTemplate(tokenizer, NULL, messages, NULL, true, text));
}

void concord_genai_text_free(const char *text) { genai.OgaDestroyString(text); }

char *concord_genai_encode(void *tokenizer, const char *text, void **sequences, const int32_t **tokens, size_t *count) {
  char *error = failure(genai.OgaCreateSequences(sequences));
  if (!error) error = failure(genai.OgaTokenizerEncode(tokenizer, text, *sequences));
  if (error || !genai.OgaSequencesCount(*sequences)) return error;
  *tokens = genai.OgaSequencesGetSequenceData(*sequences, 0);
  *count = genai.OgaSequencesGetSequenceCount(*sequences, 0);
  return NULL;
}

void concord_genai_sequences_free(void *sequences) { genai.OgaDestroySequences(sequences); }

char *concord_genai_stream(void *tokenizer, void **stream) { return failure(genai.OgaCreateTokenizerStream(tokenizer, stream)); }

char *concord_genai_add(void *stream, int32_t token, const char **text) { return failure(genai.OgaTokenizerStreamDecode(stream, token, text)); }

void concord_genai_stream_free(void *stream) { genai.OgaDestroyTokenizerStream(stream); }
