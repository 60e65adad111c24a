// Restricted says what the restricted Pod Security Standard forbids of a pod, by the code that the admission of
// Kubernetes itself runs. The template of the pod comes as JSON on stdin.
//
// Exit status 0: nothing is forbidden. 1: the lines on stdout are. 2: it is no template.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func main() {
	var template corev1.PodTemplateSpec
	err := json.NewDecoder(os.Stdin).Decode(&template)
	evaluator, problem := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil || problem != nil {
		fmt.Fprintln(os.Stderr, err, problem)
		os.Exit(2)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	status := 0
	for _, result := range evaluator.EvaluatePod(restricted, &template.ObjectMeta, &template.Spec) {
		if !result.Allowed {
			status = 1
			fmt.Printf("%s (%s)\n", result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
	os.Exit(status)
}
